"""Layers: their text form and their operations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import refusal
from kilonet.network.layers import Again, AvgPool, Conv, Gap, LayerEntry, MaxPool, Pointwise, parse_layer
from kilonet.utils.errors import KilonetError

CHANNELS = st.integers(1, 4096)
LAYERS = st.one_of(
    st.builds(Conv, CHANNELS, st.integers(1, 31), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 4)),
    st.builds(Pointwise, CHANNELS),
    st.builds(MaxPool, st.integers(1, 31)),
    st.builds(AvgPool, st.integers(1, 31)),
    st.just(Gap()),
    st.builds(Again, st.integers(1, 50), st.integers(1, 50)),
)


@given(layer=LAYERS)
def test_the_text_form_is_read_back(layer: LayerEntry) -> None:
    assert parse_layer(str(layer)) == layer


@given(layer=LAYERS, gaps=st.lists(st.sampled_from([" ", "  ", "\t", "\n"]), min_size=8, max_size=8))
def test_spaces_do_not_matter(layer: LayerEntry, gaps: list[str]) -> None:
    words = str(layer).split()
    assert parse_layer("".join(gap + word for gap, word in zip(gaps, words, strict=False))) == layer


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("conv 10", Conv(10)),
        ("conv 16 5x5 same", Conv(16, 5, same=True)),
        ("conv 10 same depthwise residual", Conv(10, 3, same=True, depthwise=True, residual=True)),
        ("conv 10 residual same", Conv(10, 3, same=True, residual=True)),
        ("conv 10 stride 2", Conv(10, stride=2)),
        ("conv 10 stride 1", Conv(10)),
        ("conv 10 5x5 depthwise stride 4 same", Conv(10, 5, same=True, depthwise=True, stride=4)),
        ("pointwise 10", Pointwise(10)),
        ("maxpool 2", MaxPool(2)),
        ("avgpool 3", AvgPool(3)),
        ("gap", Gap()),
        ("again 2", Again(2)),
        ("again 2 x1", Again(2)),
        ("again 3 x4", Again(3, times=4)),
    ],
)
def test_known_texts(text: str, layer: LayerEntry) -> None:
    assert parse_layer(text) == layer


def test_a_stride_has_its_place_in_the_text_form_and_none_if_it_is_one() -> None:
    texts = ["conv 10 residual depthwise stride 3 same", "conv 10 5x5 stride 1 depthwise"]
    forms = [str(parse_layer(text)) for text in texts]
    assert forms == ["conv 10 same stride 3 depthwise residual", "conv 10 5x5 depthwise"]


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
        "conv 10 stride",
        "conv 10 stride 0",
        "conv 10 stride 5",
        "conv 10 stride 9",
        "conv 10 stride 2x2",
        "conv 10 stride same",
        "conv 10 stride 2 stride 2",
        "conv 10 2",
        "Conv 10",
        "pointwise",
        "pointwise 10 same",
        "pointwise 0",
        "maxpool",
        "maxpool 0",
        "maxpool 32",
        "maxpool 2 2",
        "avgpool",
        "avgpool 0",
        "avgpool 32",
        "avgpool 2 stride 2",
        "pointwise 10 stride 2",
        "gap 2",
        "dense 10",
        "lstm",
        "again",
        "again 0",
        "again 51",
        "again x2",
        "again 2 2",
        "again 2 x",
        "again 2 x0",
        "again 2 x51",
        "again 2 x2 x2",
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


def test_operations_come_in_the_seeds_order() -> None:
    names = [operation.torch_name for operation in Conv(10).operations((1, 28, 28), 0.1)]
    assert names == ["Conv2d", "ReLU", "BatchNorm2d", "Dropout"]
    assert all(hasattr(nn, name) for name in names)
    assert [operation.torch_name for operation in Pointwise(10).operations((1, 28, 28), 0.1)] == ["Conv2d"]
