"""Ink is separated from paper for any polarity, colours and light."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kilonet.data.digits.foreground import find_foreground, fit_background, median_of_sorted, two_classes

Floats = NDArray[np.float32]
Y, X = np.mgrid[:60, :80]
STROKE = (np.abs(X - 40) < 4) & (np.abs(Y - 30) < 20)


def picture(paper: float | Floats, ink: float, channels: int = 1) -> Floats:
    values = np.where(STROKE, ink, paper).astype(np.float32)
    return np.repeat(values[:, :, None], channels, 2)


def light(least: float, angle: float) -> Floats:
    along = X * np.cos(angle) + Y * np.sin(angle)
    return np.asarray(1 - (1 - least) * (along - along.min()) / np.ptp(along), np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 150), (90, 130)])
def test_ink_is_found_without_asking_for_its_polarity(paper: float, ink: float, channels: int) -> None:
    found = find_foreground(picture(paper, ink, channels))
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, STROKE, atol=0.01)


@pytest.mark.parametrize("angle", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("least", [0.8, 0.5, 0.3])
def test_uneven_light_is_removed(angle: float, least: float) -> None:
    found = find_foreground(picture(220, 60) * light(least, angle)[:, :, None])
    assert found is not None
    np.testing.assert_array_equal(found > 0.5, STROKE)


def test_light_that_fades_to_the_corners_is_removed() -> None:
    fading = 1 - 0.5 * (((X - 40) / 40) ** 2 + ((Y - 30) / 30) ** 2) / 2
    found = find_foreground(picture(220, 60) * fading[:, :, None].astype(np.float32))
    assert found is not None
    np.testing.assert_array_equal(found > 0.5, STROKE)


@pytest.mark.parametrize(
    ("paper", "ink"),
    [((250, 120, 120), (80, 200, 120)), ((60, 60, 200), (200, 60, 60)), ((240, 240, 240), (250, 40, 40))],
)
def test_colours_of_like_brightness_are_told_apart(paper: tuple[int, ...], ink: tuple[int, ...]) -> None:
    found = find_foreground(np.where(STROKE[:, :, None], np.array(ink), np.array(paper)).astype(np.float32))
    assert found is not None
    np.testing.assert_array_equal(found > 0.5, STROKE)


def test_half_covered_pixels_are_half_ink() -> None:
    soft = picture(255, 0)
    soft[:, 36] = 127.5
    found = find_foreground(soft)
    assert found is not None
    assert 0.4 < found[30, 36] < 0.5


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_paper_has_no_ink(level: int) -> None:
    assert find_foreground(np.full((50, 50, 3), level, np.float32)) is None


@pytest.mark.parametrize("least", [0.9, 0.3])
def test_light_alone_is_no_ink(least: float) -> None:
    assert find_foreground(250 * light(least, 1)[:, :, None]) is None


@pytest.mark.parametrize("deviation", [1, 10, 60])
def test_noise_is_no_ink(deviation: float) -> None:
    noise = np.random.default_rng(0).normal(128, deviation, (100, 100, 1))
    assert find_foreground(np.clip(noise, 0, 255).astype(np.float32)) is None


def test_ink_that_is_hardly_there_is_none() -> None:
    assert find_foreground(picture(200, 193)) is None
    assert find_foreground(picture(200, 180)) is not None


def test_paper_is_not_drawn_into_a_digit_that_fills_the_picture() -> None:
    tight = picture(255, 0)[8:52, 30:52]
    assert STROKE[8:52, 30:52].mean() > 0.25
    np.testing.assert_allclose(fit_background(tight), 255, atol=1.5)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_picture_has_ink_between_nothing_and_all_or_none(rows: int, columns: int, channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (rows, columns, channels)) * random.integers(0, 2, (rows, columns, 1))
    found = find_foreground(values.astype(np.float32))
    if found is not None:
        assert found.shape == (rows, columns)
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-300, 300, width=16)))
def test_two_classes_are_as_far_apart_as_any_threshold_makes_them(values: Floats) -> None:
    below, above = two_classes(values)
    np.testing.assert_array_equal(np.concatenate([below, above]), np.sort(values))
    counts, edges = np.histogram(values, 256)
    levels = np.repeat((edges[:-1] + edges[1:]) / 2, counts)
    apart = [
        first * (len(levels) - first) * (levels[:first].mean() - levels[first:].mean()) ** 2
        for first in np.cumsum(counts)[:-1]
        if 0 < first < len(levels)
    ]
    if apart:
        first = len(below)
        own = first * (len(levels) - first) * (levels[:first].mean() - levels[first:].mean()) ** 2
        assert own >= max(apart) * (1 - 1e-6)


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-300, 300, width=32)))
def test_the_median_of_sorted_levels_is_numpys(levels: Floats) -> None:
    assert median_of_sorted(np.sort(levels)) == np.median(levels)
