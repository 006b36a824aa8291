"""Marks are found whatever surrounds them, and surroundings are none."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy
from hypothesis import given, strategies
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from kilonet.data.digits import marks as under_test
from kilonet.data.digits.marks import Box, find_marks

Floats = NDArray[np.float32]
Y, X = np.mgrid[:120, :160]
STROKE = (np.abs(X - 80) < 4) & (np.abs(Y - 60) < 25)
BOX = Box(35, 85, 77, 84)


def found(values: NDArray[np.generic], *, is_dark: bool = True) -> list[Box]:
    picture = values if values.ndim == 3 else values[:, :, None]
    return [mark.box for mark in find_marks(np.asarray(picture, np.float32)) if mark.is_dark == is_dark]


def share(one: Box, other: Box) -> float:
    """Return the part of the union of two boxes that both cover."""
    common = one.overlap(other)
    return common / (one.height * one.width + other.height * other.width - common)


def holds_the_stroke(boxes: list[Box]) -> bool:
    return any(share(box, BOX) > 0.5 for box in boxes)


def page(paper: float = 230, ink: float = 40) -> Floats:
    return np.where(STROKE, ink, paper).astype(np.float32)


def desk() -> Floats:
    return np.where(X < 40, 50, page()).astype(np.float32)


def letterbox() -> Floats:
    return np.where((Y < 25) | (Y > 95), 0, page()).astype(np.float32)


def shadow() -> Floats:
    return (page() * np.where(X + Y < 140, 1, 0.5)).astype(np.float32)


def lamp() -> Floats:
    light = 400 * np.exp(-((X - 140) ** 2 + (Y - 20) ** 2) / 200)
    return np.asarray(np.minimum(255, page(120) + light), np.float32)


@pytest.mark.parametrize("picture", [page, desk, letterbox, shadow, lamp])
def test_a_stroke_is_found_whatever_lies_around_the_paper(picture: Callable[[], Floats]) -> None:
    assert holds_the_stroke(found(picture()))
    assert holds_the_stroke(found(255 - picture(), is_dark=False))


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_a_mark_is_in_pixels_of_the_picture(scale: int) -> None:
    large = page().repeat(scale, 0).repeat(scale, 1)
    wanted = BOX.scaled(scale)
    assert max(share(box, wanted) for box in found(large)) > 0.5


def test_thick_and_thin_strokes_are_found() -> None:
    for half in (1, 4, 12, 16):
        stroke = (np.abs(X - 80) < half) & (np.abs(Y - 60) < 50)
        boxes = found(np.where(stroke, 40, 230))
        assert any(abs(box.height - 99) < 12 and box.width < 2 * half + 12 for box in boxes), half


def test_colours_of_like_brightness_are_told_apart() -> None:
    assert holds_the_stroke(found(np.where(STROKE[:, :, None], [80, 200, 120], [250, 120, 120])))


def test_bars_and_desks_alone_are_no_marks() -> None:
    for picture in (np.where(X < 40, 50, 230), np.where((Y < 25) | (Y > 95), 0, 230), 230 - X):
        assert not found(picture)
        assert not found(picture, is_dark=False)


def test_rules_and_borders_are_no_marks() -> None:
    for line in (np.abs(Y - 60) < 2, np.abs(X - 80) < 2, (X < 3) | (Y < 3)):
        assert not found(np.where(line, 40, 230))


def test_a_digit_that_was_cut_at_its_ink_fills_its_picture() -> None:
    ring = np.abs(np.hypot(X[:, :120] - 59.5, Y[:, :120] - 59.5) - 44) < 16
    whole = Box(0, 120, 0, 120)
    for picture in (np.where(ring, 40, 230), np.where(ring, 230, 40)):
        assert whole in [mark.box for mark in find_marks(np.asarray(picture[:, :, None], np.float32))]
    frame = (np.abs(X[:, :120] - 59.5) > 50) | (np.abs(Y[:, :120] - 59.5) > 50)
    boxes = [mark.box for mark in find_marks(np.where(frame, 40, 230).astype(np.float32)[:, :, None])]
    assert whole not in boxes


def test_the_ink_of_a_mark_is_its_own() -> None:
    picture = page()
    picture[10:110, 100:104] = 40
    marks = [mark for mark in find_marks(picture[:, :, None]) if share(mark.box, BOX) > 0.5]
    assert marks
    assert marks[0].ink_within(Box(0, 120, 98, 106)) == 0
    assert marks[0].ink_within(BOX) == pytest.approx(STROKE.sum(), rel=0.1)


@given(strategies.integers(1, 70), strategies.integers(1, 70), strategies.integers(0, 2**16))
def test_strokes_are_filled_as_by_a_closing(rows: int, columns: int, seed: int) -> None:
    grey = np.random.default_rng(seed).random((rows, columns), np.float32)
    margin = 2 * under_test._SQUARE
    closed = scipy.ndimage.grey_closing(np.pad(grey, margin, "edge"), (under_test._SQUARE, under_test._SQUARE))
    assert np.array_equal(under_test._without_strokes(grey), closed[margin:-margin, margin:-margin])


@given(arrays(np.bool_, strategies.tuples(strategies.integers(1, 24), strategies.integers(1, 24))))
def test_pieces_of_each_threshold_are_those_that_scipy_numbers(inked: NDArray[np.bool_]) -> None:
    contrast = np.asarray(np.where(inked, 40, 10) + np.arange(inked.shape[1]), np.float32)
    thresholds = [one for one in (55.0, 30.0, 5.0) if (contrast > one).any()]
    pieces_of_each = under_test._pieces(contrast, thresholds, 1000)
    for threshold, (labels, pieces) in zip(thresholds, pieces_of_each, strict=True):
        expected, count = scipy.ndimage.label(contrast > threshold, np.ones((3, 3)))
        assert len(pieces) == count
        for number, box in pieces:
            inside = labels == number
            assert len(np.unique(expected[inside])) == 1
            assert (expected == expected[inside][0]).sum() == inside.sum()
            rows, columns = np.nonzero(inside)
            assert box == Box(rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)


@given(arrays(np.bool_, strategies.integers(2, 12).map(lambda count: (count, count))))
def test_groups_are_the_connected_components_of_nearness(links: NDArray[np.bool_]) -> None:
    near = links | links.T
    _, component = connected_components(near, directed=False)
    first = under_test._first_of_group(near)
    assert first == [int(np.flatnonzero(component == own)[0]) for own in component]
