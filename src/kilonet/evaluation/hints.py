"""Why a model is wrong on a data set: its images turned, mirrored, inverted or of another scale of grey levels.

Data sets of digits are published in all of these ways; EMNIST's images are transposed.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import accuracy_of
from kilonet.models.model import Classifier

_SAMPLE = 300
"""The images on which the changes are tried, evenly spaced."""
_POOR = 0.8
"""An accuracy below which the changes are tried."""
_GAIN = 0.2
"""The least gain of accuracy that is worth a hint; half of the mistakes must go, too."""
_WHITE = 255

Change = Callable[[Tensor], Tensor]


def hint(model: Classifier, images: Images, accuracy: float) -> str | None:
    """Return a line that says which change of the images makes a model far better, or None.

    Args:
        model: the model.
        images: the scored images.
        accuracy: the model's accuracy on them, a fraction.
    """
    if accuracy >= _POOR:
        return None
    sample = images.select(torch.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).long(), images.name)
    plain = _accuracy(model, sample, sample.pixels)
    changes = _changes(sample.pixels)
    found = {words: _accuracy(model, sample, change(sample.pixels)) for words, change in changes.items()}
    words, best = max(found.items(), key=lambda pair: pair[1], default=("", 0.0))
    if best < plain + _GAIN or 1 - best > (1 - plain) / 2:
        return None
    share = f"{100 * best:.0f} % instead of {100 * plain:.0f} % of {len(sample)} images"
    return f"are the images as the model knows them? {share} are right once {words}"


def _accuracy(model: Classifier, images: Images, pixels: Tensor) -> float:
    return accuracy_of(model.logits(pixels.contiguous()), images.labels)


def _changes(pixels: Tensor) -> dict[str, Change]:
    """Return the changes that images, uint8 (N, channels, rows, columns), allow, each by what it does to them."""
    turns: dict[str, Change] = {
        "": lambda images: images,
        "mirrored left to right": lambda images: images.flip(3),
        "turned upside down": lambda images: images.rot90(2, (2, 3)),
        "mirrored top to bottom": lambda images: images.flip(2),
    }
    if pixels.shape[2] == pixels.shape[3]:
        turns |= {
            "transposed (rows become columns)": lambda images: images.transpose(2, 3),
            "turned left by 90 degrees": lambda images: images.rot90(1, (2, 3)),
            "turned right by 90 degrees": lambda images: images.rot90(3, (2, 3)),
            "transposed the other way": lambda images: images.rot90(2, (2, 3)).transpose(2, 3),
        }
    levels: dict[str, Change] = {
        "": lambda images: images,
        "inverted (255 less each grey level)": lambda images: _WHITE - images,
    }
    highest = int(pixels.max())
    if 0 < highest <= _WHITE // 2:
        factor = _WHITE // highest
        levels |= {
            f"multiplied by {factor} (the highest grey level is {highest})": lambda images: images * factor,
            f"multiplied by {factor} and inverted": lambda images: _WHITE - images * factor,
        }
    pairs = list(product(turns.items(), levels.items()))
    return {
        " and ".join(filter(None, (turned, levelled))): _after(turn, level)
        for (turned, turn), (levelled, level) in pairs
        if turned or levelled
    }


def _after(first: Change, second: Change) -> Change:
    return lambda images: second(first(images))
