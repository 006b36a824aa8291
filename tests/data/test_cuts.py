"""Digits that touch are read in a row, and split into pieces that look like them; one digit is left whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kilonet.data.datasets import DataSet
from kilonet.data.decode import decode
from kilonet.data.digits.cuts import split_digits
from kilonet.data.digits.prepare import PreparedImage, prepare_digit, prepare_row
from kilonet.models.model import load_model
from kilonet.models.prediction import predictions_of
from marks import mnist_mark, touching
from surroundings import as_file, plain


@pytest.mark.ci
@pytest.mark.parametrize(("count", "least"), [(2, 11), (3, 10)])
def test_digits_that_touch_are_read_in_a_row(mnist: DataSet, count: int, least: int) -> None:
    model, right, rows = load_model("best"), 0, 12
    for number in range(rows):
        random = np.random.default_rng([41, number])
        chosen = random.integers(len(mnist.test), size=count)
        ink = touching([mnist_mark(mnist.test.pixels[one, 0].numpy(), 60) for one in chosen], random)
        row = prepare_row(decode(as_file(plain(ink, random)), "row"))
        assert all(image.in_row for image in row) or len(row) < count
        logits = model.logits(torch.from_numpy(np.stack([image.pixels for image in row])[:, None])).numpy()
        said = [one.label for one in predictions_of(logits, row, model.metadata, digits=True)]
        right += said == mnist.test.labels[chosen].tolist()
    assert right >= least


def test_one_digit_is_left_whole(mnist: DataSet) -> None:
    whole = 0
    for number, pixels in enumerate(mnist.test.pixels[:20, 0].numpy()):
        picture = as_file(plain(mnist_mark(pixels, 60), np.random.default_rng([43, number])))
        (*images,) = prepare_row(decode(picture, "digit"))
        whole += len(images) == 1 and not images[0].in_row
    assert whole >= 19


def test_ink_without_such_cuts_is_not_split(mnist: DataSet) -> None:
    ink = mnist_mark(mnist.test.pixels[0, 0].numpy(), 60).astype(np.float32)
    assert split_digits(ink, tuple(range(10))) == []


def test_pieces_are_all_of_the_ink(mnist: DataSet) -> None:
    random = np.random.default_rng(44)
    ink = touching([mnist_mark(mnist.test.pixels[number, 0].numpy(), 40) for number in (0, 1)], random)
    pieces = split_digits(ink.astype(np.float32), mnist.test.labels[:2].tolist())
    assert len(pieces) == 2
    whole = np.maximum(*pieces)
    assert whole.sum() == pytest.approx(ink.sum(), rel=0.05)


def test_the_neighbours_count_for_a_digit_of_a_row() -> None:
    """The model holds 1 and 7 for equally probable; who saw the row, 7."""
    logits = np.full((1, 10), -5, np.float32)
    logits[0, [1, 7]] = 8
    likely = np.full(10, 0.001, np.float32)
    likely[7] = 0.9
    image = PreparedImage(np.zeros((28, 28), np.uint8), likely=likely)
    metadata = load_model("best").metadata
    (alone,) = predictions_of(logits, [image], metadata, digits=True)
    (in_row,) = predictions_of(logits, [replace(image, in_row=True)], metadata, digits=True)
    assert alone.label == 1
    assert alone.uncertain
    assert in_row.label == 7
    assert not in_row.uncertain
    assert sum(in_row.probabilities) == pytest.approx(1)
    nothing = replace(image, in_row=True, likely=np.zeros(10, np.float32))
    (unknown,) = predictions_of(logits, [nothing], metadata, digits=True)
    assert unknown.uncertain


def test_touching_digits_are_no_one_digit(mnist: DataSet) -> None:
    refused = 0
    for number in range(20):
        random = np.random.default_rng([42, number])
        chosen = random.integers(len(mnist.test), size=2)
        ink = touching([mnist_mark(mnist.test.pixels[one, 0].numpy(), 60) for one in chosen], random)
        image = prepare_digit(decode(as_file(plain(ink, random)), "pair"))
        refused += image.objection is not None or (image.likely is not None and float(image.likely.max()) < 0.9)
    assert refused >= 15
