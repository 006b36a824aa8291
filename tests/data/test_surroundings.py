"""A digit is read whatever surrounds it, and what is no digit is none, or not surely one."""

from collections import Counter

import numpy as np
import pytest
import torch

from kilonet.data.datasets import DataSet
from kilonet.data.decode import decode
from kilonet.data.digits.check import digit_probabilities
from kilonet.models.model import Model, load_model
from kilonet.models.prediction import Prediction, predictions_of, prepare_images
from marks import any_digit, any_letter
from surroundings import HEIGHTS, KINDS, as_file

# Three pictures of each kind take seconds; enough to judge a kind by take minutes.
QUICK, LONG = 3, 24


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("best")


def read(model: Model, content: bytes) -> Prediction:
    images = prepare_images(decode(content, "picture"), model)
    logits = model.logits(torch.from_numpy(np.stack([image.pixels for image in images])).unsqueeze(1)).numpy()
    return predictions_of(logits, images, model.metadata, digits=True)[0]


def outcomes(model: Model, mnist: DataSet, kind: str, count: int) -> Counter[str]:
    """Count what becomes of digits in surroundings of a kind: right, wrong or none, and of the wrong the sure ones."""
    part = mnist.hold_out().test
    pixels, labels = part.pixels[:, 0].numpy(), part.labels.numpy()
    counts: Counter[str] = Counter()
    for number in range(count):
        random = np.random.default_rng([51, list(KINDS).index(kind), number])
        digit = int(random.integers(10))
        source = ("mnist", "font", "pen")[number % 3]
        ink = any_digit(digit, source, pixels[labels == digit], HEIGHTS[number // 3 % 3], random)
        said = read(model, as_file(KINDS[kind](ink, random)))
        counts["right"] += said.label == digit
        counts["sure and wrong"] += said.label not in {digit, None} and not said.uncertain
    return counts


@pytest.mark.ci
def test_digits_are_read_in_surroundings_of_every_kind(model: Model, mnist: DataSet) -> None:
    total: Counter[str] = Counter()
    for kind in KINDS:
        counts = outcomes(model, mnist, kind, QUICK)
        assert counts["right"] >= 1, kind
        total += counts
    assert total["right"] >= 0.93 * QUICK * len(KINDS)
    assert total["sure and wrong"] <= 0.01 * QUICK * len(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_read_in_many_pictures_of_a_kind(model: Model, mnist: DataSet, kind: str) -> None:
    counts = outcomes(model, mnist, kind, LONG)
    assert counts["right"] >= 0.75 * LONG
    assert counts["sure and wrong"] <= 1


@pytest.mark.ci
def test_letters_and_signs_are_no_sure_digits(model: Model) -> None:
    sure = 0
    for number in range(40):
        random = np.random.default_rng([52, number])
        said = read(model, as_file(KINDS["plain"](any_letter(HEIGHTS[number % 3], random), random)))
        sure += said.label is not None and not said.uncertain
    assert sure <= 1


@pytest.mark.ci
def test_empty_surfaces_are_no_sure_digits(model: Model) -> None:
    taken = []
    # An empty ring is a 0.
    for number, kind in enumerate(name for name in KINDS if name != "ring_around"):
        random = np.random.default_rng([53, number])
        said = read(model, as_file(KINDS[kind](np.zeros((60, 40)), random)))
        if said.label is not None and not said.uncertain:
            taken.append(kind)
    assert not taken


def test_the_check_knows_digits_and_what_is_none(mnist: DataSet) -> None:
    digits = digit_probabilities(mnist.test.pixels[:500, 0].numpy())
    assert (digits.argmax(1) == mnist.test.labels[:500].numpy()).mean() > 0.97
    cross = np.zeros((28, 28), np.uint8)
    cross[13:16, 4:24] = cross[4:24, 13:16] = 255
    assert digit_probabilities(np.stack([cross, np.full((28, 28), 255, np.uint8)])).sum(1).max() < 0.5
    assert digit_probabilities(np.empty((0, 28, 28), np.uint8)).shape == (0, 10)
