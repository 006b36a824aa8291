"""A hint says what is wrong with images on which a model is far better once they are changed, and with no others."""

import pytest
import torch
from torch import Tensor

from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.hints import Change, hint
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import load_model

MODEL = load_model("baseline")


def hint_for(mnist: DataSet, change: Change, count: int = 60) -> str | None:
    images = Images(change(mnist.test.pixels[:count]).contiguous(), mnist.test.labels[:count])
    return hint(MODEL, images, evaluate(MODEL, images).accuracy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images.transpose(2, 3), "once transposed (rows become columns)"),
        (lambda images: 255 - images, "once inverted"),
        (lambda images: (images > 127).to(torch.uint8), "once multiplied by 255 (the highest grey level is 1)"),
        (lambda images: images // 17, "once multiplied by 17 (the highest grey level is 15)"),
        (lambda images: 1 - (images > 127).to(torch.uint8), "once multiplied by 255 and inverted"),
        (lambda images: images.rot90(1, (2, 3)), "once turned right by 90 degrees"),
        (lambda images: images.flip(3), "once mirrored left to right"),
        (lambda images: 255 - images.transpose(2, 3), "once transposed (rows become columns) and inverted"),
    ],
)
def test_images_in_another_way_are_recognised(mnist: DataSet, change: Change, words: str) -> None:
    line = hint_for(mnist, change)
    assert line is not None
    assert words in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("change", [Tensor.clone, torch.zeros_like, lambda images: images.roll(9, 2)])
def test_other_images_get_no_hint(mnist: DataSet, change: Change) -> None:
    assert hint_for(mnist, change, 300) is None
