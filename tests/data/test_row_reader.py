"""Digits that touch are read as a row, without being cut."""

import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra.numpy import arrays

from kilonet.data.datasets import DataSet
from kilonet.data.digits.check import DIGITS
from kilonet.data.digits.row_reader import read_row
from marks import STROKED, mnist_mark, stroke_mark, touching


@pytest.mark.parametrize(("count", "least"), [(1, 19), (2, 18), (3, 17)])
def test_it_reads_digits_that_touch(mnist: DataSet, count: int, least: int) -> None:
    right = 0
    for number in range(20):
        random = np.random.default_rng([61, number])
        chosen = random.integers(len(mnist.test), size=count)
        ink = touching([mnist_mark(mnist.test.pixels[one, 0].numpy(), 60) for one in chosen], random)
        right += list(read_row(ink.astype(np.float32)).digits) == mnist.test.labels[chosen].tolist()
    assert right >= least


def test_letters_are_no_digits() -> None:
    surely = []
    for number in range(40):
        random = np.random.default_rng([62, number])
        marks = [stroke_mark(str(random.choice(STROKED)), 60, random) for _ in range(2)]
        reading = read_row(touching(marks, random).astype(np.float32))
        if reading.digits and reading.probabilities.max(1).min() > 0.65:
            surely.append(number)
    assert len(surely) <= 4


@given(
    arrays(np.float32, strategies.tuples(*[strategies.integers(1, 60)] * 2), elements=strategies.floats(0, 1, width=32))
)
def test_any_ink_is_read(ink: np.ndarray) -> None:
    """What one digit of a reading may be, with the others as they are, are different readings: at most one in all."""
    ink[0, 0] = 1
    reading = read_row(ink)
    assert reading.probabilities.shape == (len(reading.digits), DIGITS)
    assert np.isfinite(reading.probabilities).all()
    assert (reading.probabilities.sum(1) <= 1.001).all()
    for place, digit in enumerate(reading.digits):
        assert reading.probabilities[place, digit] == pytest.approx(
            reading.probabilities[0, reading.digits[0]], rel=1e-3
        )
