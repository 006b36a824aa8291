"""Digits in photos are read nearly as well as the clean images that they were made from."""

import numpy as np
import pytest
import torch

from found_digits import Change, draw_change, found_digit
from kilonet.data.datasets import DataSet
from kilonet.data.decode import decode
from kilonet.data.digits.prepare import prepare_digit
from kilonet.models.model import load_model
from kilonet.models.prediction import predictions_of

COUNT = 300


def test_the_pictures_vary_as_they_should() -> None:
    changes = [draw_change(number) for number in range(COUNT)]
    scales, degrees = (np.array([getattr(change, name) for change in changes]) for name in ("scale", "degrees"))
    assert scales.min() < 0.55
    assert scales.max() > 1.9
    assert np.abs(degrees).max() > 14
    for name in ("inverted", "gradient", "coloured"):
        assert 0.4 < np.mean([getattr(change, name) for change in changes]) < 0.6
    assert 0.4 < np.mean([change.quality is None for change in changes]) < 0.6
    for stroke in ("thin", "plain", "thick"):
        assert [change.stroke for change in changes].count(stroke) == COUNT // 3


@pytest.mark.ci
def test_found_digits_are_read_nearly_as_well_as_clean_ones(mnist: DataSet) -> None:
    model, test = load_model("best"), mnist.test
    labels = test.labels[:COUNT].numpy()
    prepared = [
        prepare_digit(decode(found_digit(test.pixels[number, 0].numpy(), draw_change(number)), f"digit {number}"))
        for number in range(COUNT)
    ]
    pixels = torch.from_numpy(np.stack([image.pixels for image in prepared])).unsqueeze(1)
    found = predictions_of(model.logits(pixels).numpy(), prepared, model.metadata, digits=True)
    right = np.array([answer.label == label for answer, label in zip(found, labels, strict=True)])
    clean = model.predict(test.pixels[:COUNT]).classes == labels
    assert right.mean() >= 0.97 * clean.mean()
    # Wrong predictions should be uncertain.
    sure = np.array([not answer.uncertain for answer in found])
    assert sure.mean() > 0.9
    assert right[sure].mean() > 0.99


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_size_alone_changes_little_of_what_the_network_sees(mnist: DataSet, scale: float) -> None:
    pixels = mnist.test.pixels[:20, 0].numpy()
    plain = Change(scale, 0, "plain", inverted=False, gradient=False, coloured=False, quality=None, seed=1)
    seen = np.stack([prepare_digit(decode(found_digit(image, plain), "digit")).pixels for image in pixels])
    # A quarter of a grey level a pixel on the whole, and no digit moved by more than a pixel.
    assert np.abs(seen.astype(float) - pixels).mean() < (18 if scale < 1 else 12)
