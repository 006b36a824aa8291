"""A part of a digit is told from a whole one by what is around it."""

import numpy as np
from hypothesis import given, strategies

from kilonet.data.datasets import DataSet
from kilonet.data.digits.context import INPUT, views_of, whole_probabilities
from kilonet.data.digits.marks import Box, Mark
from marks import mnist_mark


def drawn(ink: np.ndarray, top: int = 0, bottom: int | None = None) -> tuple[Mark, np.ndarray]:
    """Return a mark of some rows of ink on paper, and the whole picture, float32 (rows, columns, 1)."""
    grey = np.pad(220 - 180 * ink.astype(np.float32), 60, constant_values=220)
    bottom = len(ink) if bottom is None else bottom
    box = Box(60 + top, 60 + bottom, 60, 60 + ink.shape[1])
    return Mark(ink[top:bottom].astype(np.float32), box, 180.0, True, "", 1, 1), grey[:, :, None]


def test_a_whole_digit_is_one_and_its_half_is_none(mnist: DataSet) -> None:
    wholes, halves = 0, 0
    for pixels in mnist.test.pixels[:30, 0].numpy():
        ink = mnist_mark(pixels, 60)
        for top, bottom in ((0, None), (0, 30), (30, None)):
            mark, picture = drawn(ink, top, bottom)
            (share,) = whole_probabilities([mark], picture)
            if (top, bottom) == (0, None):
                wholes += share > 0.5
            else:
                halves += share > 0.5
    assert wholes >= 29
    assert halves <= 6


def test_no_mark_has_no_probability() -> None:
    assert whole_probabilities([], np.zeros((30, 30, 3), np.float32)).shape == (0,)


@given(strategies.integers(1, 300), strategies.integers(1, 300), strategies.integers(1, 3), strategies.data())
def test_any_mark_has_views(rows: int, columns: int, channels: int, data: strategies.DataObject) -> None:
    random = np.random.default_rng(0)
    top, left = data.draw(strategies.integers(0, rows - 1)), data.draw(strategies.integers(0, columns - 1))
    bottom, right = data.draw(strategies.integers(top + 1, rows)), data.draw(strategies.integers(left + 1, columns))
    picture = random.integers(0, 256, (rows, columns, 3 if channels == 3 else 1)).astype(np.float32)
    ink = random.random((bottom - top, right - left), np.float32)
    mark = Mark(ink, Box(top, bottom, left, right), 20.0, True, "", 1, 1)
    (view,) = views_of([mark], picture)
    assert view.shape == INPUT
    assert view.dtype == np.uint8
