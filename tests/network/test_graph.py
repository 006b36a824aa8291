"""Layers at their places: shapes and counts as in torch, repetitions, and every error."""

import pytest
import torch

from helpers import refusal
from kilonet.network.graph import PlacedLayer, place
from kilonet.network.layers import parse_layer
from kilonet.network.module import Network
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError


def placed_texts(*texts: str) -> tuple[PlacedLayer, ...]:
    return place([parse_layer(text) for text in texts], (1, 28, 28))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["conv 4 4x4 same"], "'same' needs an odd kernel"),
        (["conv 4", "conv 6 depthwise"], "'depthwise' needs a multiple of its 4 input channels"),
        (["conv 4", "conv 4 residual"], "'residual' needs 'same'"),
        (["conv 4", "conv 4 same stride 2 residual"], "'residual' cannot have a stride"),
        (["conv 4 31x31 stride 4"], "28x28 is too small"),
        (["avgpool 29"], "28x28 is too small"),
        (["conv 1 stride 4", "again 1 x3"], "is too small"),
        (["avgpool 4", "again 1 x3"], "is too small"),
        (["conv 4", "conv 8 same residual"], "as many channels as its input, 4"),
        (["conv 4 31x31"], "28x28 is too small"),
        (["maxpool 29"], "28x28 is too small"),
        (["gap", "conv 4"], "1x1 is too small"),
        (["gap", "maxpool 2"], "1x1 is too small"),
        (["again 1"], "only 0 layers before it"),
        (["conv 4", "pointwise 4", "again 3"], "only 2 layers before it"),
        (["conv 4", "again 1"], "weights for 1 input channels and cannot follow 4"),
        (["conv 4", "pointwise 8", "again 1"], "'pointwise 8' has weights for 4 input channels and cannot follow 8"),
        (["conv 4", "conv 4", "maxpool 2", "again 2 x4"], "is too small"),
        (["conv 2", "pointwise 2", "again 1 x50", "again 50 x4"], "at most 200 layers"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(texts: list[str], words: str) -> None:
    with pytest.raises(KilonetError) as error:
        place([parse_layer(text) for text in texts], (1, 28, 28))
    refusal(error, f"layer {len(texts)}, '{texts[-1]}'", words)


@pytest.mark.parametrize(
    "text",
    [
        "conv 6",
        "conv 6 1x1",
        "conv 6 2x2",
        "conv 6 5x5",
        "conv 6 5x5 same",
        "conv 6 depthwise",
        "conv 3 7x7 same depthwise residual",
        "conv 3 same residual",
        "conv 6 stride 2",
        "conv 6 stride 3",
        "conv 6 1x1 stride 4",
        "conv 6 2x2 stride 3",
        "conv 6 5x5 same stride 2",
        "conv 6 same stride 4 depthwise",
        "pointwise 5",
        "maxpool 1",
        "maxpool 2",
        "maxpool 3",
        "avgpool 1",
        "avgpool 2",
        "avgpool 3",
        "gap",
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_shapes_and_counts_are_torchs(text: str, dropout: float) -> None:
    shape = (3, 11, 14)
    (placed,) = place([parse_layer(text)], shape, dropout)
    section = ModelSection(layers=(text, "gap"), input=shape, dropout=dropout)
    module = Network(section).eval().layers[0]
    assert module(torch.zeros(2, *shape)).shape == (2, *placed.output_shape)
    assert sum(operation.parameters for operation in placed.operations) == sum(p.numel() for p in module.parameters())
    shapes: list[tuple[int, ...]] = []
    leaves = [leaf for leaf in module.modules() if not list(leaf.children())]
    for leaf in leaves:
        leaf.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    module(torch.zeros(1, *shape))
    for operation, after in zip(placed.operations, shapes, strict=True):
        assert operation.output_shape(shape) == after
        shape = operation.output_shape(shape)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("conv 6", (6, 9, 12)),
        ("conv 6 2x2", (6, 10, 13)),
        ("conv 6 5x5 same", (6, 11, 14)),
        ("conv 6 5x5 depthwise", (6, 7, 10)),
        ("pointwise 5", (5, 11, 14)),
        ("maxpool 2", (3, 5, 7)),
        ("maxpool 3", (3, 3, 4)),
        ("avgpool 3", (3, 3, 4)),
        ("conv 6 stride 2", (6, 5, 6)),
        ("conv 6 same stride 2", (6, 6, 7)),
        ("conv 6 1x1 stride 4", (6, 3, 4)),
        ("gap", (3, 1, 1)),
    ],
)
def test_known_shapes(text: str, shape: tuple[int, int, int]) -> None:
    (placed,) = place([parse_layer(text)], (3, 11, 14))
    assert placed.output_shape == shape


def test_repeated_layers_are_written_out_with_their_owners() -> None:
    placed = placed_texts("conv 4", "pointwise 4", "maxpool 2", "conv 4 same residual", "again 3", "again 1 x2", "gap")
    assert [str(one.layer) for one in placed] == [
        "conv 4",
        *["pointwise 4", "maxpool 2", "conv 4 same residual"] * 2,
        *["conv 4 same residual"] * 2,
        "gap",
    ]
    assert [one.number for one in placed] == list(range(10))
    assert [one.owner for one in placed] == [0, 1, 2, 3, 1, 5, 3, 3, 3, 9]


def test_a_repeated_layer_has_the_weights_of_its_owner_and_a_batch_norm_of_its_own() -> None:
    *_, first, second = placed_texts("conv 4", "conv 4 same residual", "again 1")
    assert first.parameters == 4 * 4 * 9 + 8
    assert second.parameters == 8
    assert second.tensor_name("convolution.weight") == "layers.1.layer.convolution.weight"
    assert second.second_name == "layers.2.layer.convolution.weight"
    assert second.tensor_name("batch_norm.bias") == "layers.2.layer.batch_norm.bias"
    assert first.second_name is None
    assert (first.text, second.text) == ("conv 4 same residual", "conv 4 same residual (weights of 2)")


def test_the_counts_of_shared_weights_are_torchs() -> None:
    section = ModelSection(
        layers=("conv 4", "pointwise 4", "conv 8 depthwise", "pointwise 4", "again 2 x3", "gap", "pointwise 10")
    )
    assert section.parameters == sum(tensor.numel() for tensor in Network(section).parameters())
