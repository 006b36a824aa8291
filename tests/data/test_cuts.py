"""Digits that touch are split where the pieces are digits; one digit is left whole."""

import numpy as np
import pytest

from kilonet.data.datasets import DataSet
from kilonet.data.decode import decode
from kilonet.data.digits.cuts import split_digits
from kilonet.data.digits.prepare import prepare_digit, prepare_row
from kilonet.models.model import load_model
from marks import mnist_mark, touching
from surroundings import as_file, plain


@pytest.mark.parametrize("count", [2, 3])
def test_digits_that_touch_are_read_in_a_row(mnist: DataSet, count: int) -> None:
    model, right, rows = load_model("best"), 0, 12
    for number in range(rows):
        random = np.random.default_rng([41, number])
        chosen = random.integers(len(mnist.test), size=count)
        ink = touching([mnist_mark(mnist.test.pixels[one, 0].numpy(), 60) for one in chosen], random)
        row = prepare_row(decode(as_file(plain(ink, random)), "row"))
        said = model.predict(np.stack([image.pixels for image in row])).classes.tolist()
        right += said == mnist.test.labels[chosen].tolist()
    assert right >= 0.75 * rows


def test_one_digit_is_left_whole(mnist: DataSet) -> None:
    whole = [len(split_digits(image.astype(np.float32) / 255)) for image in mnist.test.pixels[:40, 0].numpy()]
    assert whole.count(1) >= 38


def test_touching_digits_are_no_one_digit(mnist: DataSet) -> None:
    refused = 0
    for number in range(20):
        random = np.random.default_rng([42, number])
        chosen = random.integers(len(mnist.test), size=2)
        ink = touching([mnist_mark(mnist.test.pixels[one, 0].numpy(), 60) for one in chosen], random)
        image = prepare_digit(decode(as_file(plain(ink, random)), "pair"))
        refused += image.objection is not None or (image.likely is not None and float(image.likely.max()) < 0.9)
    assert refused >= 15
