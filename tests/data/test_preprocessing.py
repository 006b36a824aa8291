"""Pictures of any size as the input of a network, against the formula in whole numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kilonet.data.preprocessing import Preprocessing, crop_box, pad_box
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
TARGETS = st.tuples(st.integers(1, 20), st.integers(1, 20))


def weights(shown: int, count: int) -> NDArray[np.float64]:
    """Return the weight of each of `shown` pixels in each of `count` output pixels, (count, shown)."""
    outputs, places = np.arange(count)[:, None], np.arange(shown)[None]
    found = np.maximum(0, 2 * max(shown, count) - np.abs((2 * places + 1) * count - (2 * outputs + 1) * shown))
    return np.asarray(found / found.sum(1, keepdims=True), np.float64)


@given(SIZES, TARGETS, st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_a_squashed_picture_is_that_of_the_formula(
    size: tuple[int, int], target: tuple[int, int], seed: int, channels: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)
    found = Preprocessing((channels, *target), "squash").apply(picture)
    down, across = weights(size[0], target[0]), weights(size[1], target[1])
    expected = np.stack([down @ picture[:, :, channel] @ across.T for channel in range(channels)])
    assert found.shape == (channels, *target)
    assert np.abs(found - expected).max() <= 1.01


@given(SIZES, TARGETS)
def test_a_cropped_picture_is_the_squashed_middle(size: tuple[int, int], target: tuple[int, int]) -> None:
    (rows, columns), (height, width) = target, size
    left, top, right, bottom = crop_box((width, height), (columns, rows))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == width or bottom - top == height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 1)).astype(np.uint8)
    cropped = Preprocessing((1, rows, columns), "crop").apply(picture)
    squashed = Preprocessing((1, rows, columns), "squash").apply(picture[top:bottom, left:right])
    assert np.abs(cropped.astype(int) - squashed).max() <= 1


@given(SIZES, TARGETS)
def test_a_padded_picture_is_whole_and_the_rest_is_the_padding(size: tuple[int, int], target: tuple[int, int]) -> None:
    (rows, columns), (height, width) = target, size
    left, top, right, bottom = pad_box((width, height), (columns, rows))
    assert 0 <= left < right <= columns
    assert 0 <= top < bottom <= rows
    padded = Preprocessing((3, rows, columns), "pad", (10, 20, 30)).apply(np.full((height, width, 3), 200, np.uint8))
    inside = np.zeros((rows, columns), bool)
    inside[top:bottom, left:right] = True
    assert (padded[:, inside] == 200).all()
    for channel, level in enumerate((10, 20, 30)):
        assert (padded[channel, ~inside] == level).all()


def test_a_picture_of_the_inputs_size_is_only_converted() -> None:
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for resize in ("crop", "pad", "squash"):
        np.testing.assert_array_equal(Preprocessing((3, 2, 3), resize).apply(colours), colours.transpose(2, 0, 1))
    grey = Preprocessing((1, 2, 3)).apply(colours)
    red, green, blue = colours.astype(int).transpose(2, 0, 1)
    np.testing.assert_array_equal(grey[0], (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16)
    np.testing.assert_array_equal(Preprocessing((3, 2, 3)).apply(grey.transpose(1, 2, 0)), np.repeat(grey, 3, 0))


def test_fine_patterns_are_averaged() -> None:
    rows, columns = np.mgrid[:60, :60]
    chequered = (255 * ((rows + columns) % 2)).astype(np.uint8)[:, :, None]
    assert np.abs(Preprocessing((1, 9, 9)).apply(chequered).astype(int) - 127.5).max() < 2


def test_the_padding_of_a_network_is_its_mean() -> None:
    section = ModelSection(
        input=(3, 4, 8), layers=("gap", "pointwise 2"), mean=(0.1, 0.5, 0.25), std=(0.2, 0.3, 0.4), resize="pad"
    )
    padded = Preprocessing.of(section).apply(np.full((4, 4, 1), 9, np.uint8))
    assert padded[:, 0, 0].tolist() == [26, 128, 64]
    assert padded[:, 0, 4].tolist() == [9, 9, 9]


def test_other_channels_are_refused() -> None:
    with pytest.raises(KilonetError, match="the network takes 2 channels; images have 1 or 3"):
        Preprocessing((2, 8, 8))
