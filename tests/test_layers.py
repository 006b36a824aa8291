"""Layers: their text form, their shapes and counts as torch has them, and every objection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import refusal
from kilonet.errors import KilonetError
from kilonet.layers import Conv, Gap, Layer, MaxPool, Mix, elements, parse_layer, place
from kilonet.network import Network
from kilonet.recipe import ModelSection

CHANNELS = st.integers(1, 4096)
LAYERS = st.one_of(
    st.builds(Conv, CHANNELS, st.integers(1, 31), st.booleans(), st.booleans(), st.booleans()),
    st.builds(Mix, CHANNELS),
    st.builds(MaxPool, st.integers(1, 31)),
    st.just(Gap()),
)


@given(layer=LAYERS)
def test_the_text_form_is_read_back(layer: Layer) -> None:
    assert parse_layer(str(layer)) == layer


@given(layer=LAYERS, gaps=st.lists(st.sampled_from([" ", "  ", "\t", "\n"]), min_size=6, max_size=6))
def test_spaces_do_not_matter(layer: Layer, gaps: list[str]) -> None:
    words = str(layer).split()
    assert parse_layer("".join(gap + word for gap, word in zip(gaps, words, strict=False))) == layer


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("conv 10", Conv(10)),
        ("conv 16 5x5 same", Conv(16, 5, same=True)),
        ("conv 10 same depthwise residual", Conv(10, 3, same=True, depthwise=True, residual=True)),
        ("conv 10 residual same", Conv(10, 3, same=True, residual=True)),
        ("mix 10", Mix(10)),
        ("maxpool 2", MaxPool(2)),
        ("gap", Gap()),
    ],
)
def test_known_texts(text: str, layer: Layer) -> None:
    assert parse_layer(text) == layer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "conv",
        "conv x",
        "conv 0",
        "conv -1",
        "conv 4097",
        "conv 1e3",
        "conv 10.0",
        "conv \u0661\u0660",
        "conv " + "9" * 5000,
        "conv 10 0x0",
        "conv 10 32x32",
        "conv 10 3x5",
        "conv 10 3 x 3",
        "conv 10 3X3",
        "conv 10 same 3x3",
        "conv 10 3x3 5x5",
        "conv 10 valid",
        "conv 10 same same",
        "Conv 10",
        "mix",
        "mix 10 same",
        "mix 0",
        "maxpool",
        "maxpool 0",
        "maxpool 32",
        "maxpool 2 2",
        "gap 2",
        "dense 10",
        "lstm",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_layer_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(KilonetError) as error:
        parse_layer(text)
    refusal(error, "layers are: conv C")


@given(text=st.text(max_size=20))
def test_any_text_is_a_layer_or_refused(text: str) -> None:
    try:
        layer = parse_layer(text)
    except KilonetError:
        return
    assert parse_layer(str(layer)) == layer


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["conv 4 4x4 same"], "'same' needs an odd kernel"),
        (["conv 4", "conv 6 depthwise"], "'depthwise' needs a multiple of its 4 input channels"),
        (["conv 4", "conv 4 residual"], "'residual' needs 'same'"),
        (["conv 4", "conv 8 same residual"], "as many channels as its input, 4"),
        (["conv 4 31x31"], "28x28 is too small"),
        (["maxpool 29"], "28x28 is too small"),
        (["gap", "conv 4"], "1x1 is too small"),
        (["gap", "maxpool 2"], "1x1 is too small"),
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
        "mix 5",
        "maxpool 1",
        "maxpool 2",
        "maxpool 3",
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
        ("mix 5", (5, 11, 14)),
        ("maxpool 2", (3, 5, 7)),
        ("maxpool 3", (3, 3, 4)),
        ("gap", (3, 1, 1)),
    ],
)
def test_known_shapes(text: str, shape: tuple[int, int, int]) -> None:
    (placed,) = place([parse_layer(text)], (3, 11, 14))
    assert placed.output_shape == shape


def test_operations_come_in_the_seeds_order() -> None:
    names = [operation.torch_name for operation in Conv(10).operations((1, 28, 28), 0.1)]
    assert names == ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"]
    assert all(hasattr(nn, name) for name in names)
    assert [operation.torch_name for operation in Mix(10).operations((1, 28, 28), 0.1)] == ["Conv2d"]


def test_elements_are_counted() -> None:
    assert elements((10, 26, 26)) == 6760
