"""Tell a whole digit from a part of something, by what is around it in the picture.

A stroke that a shadow's edge or a faint place has cut looks like a digit of its own: the stem of a 9 is a 1. Its
surroundings tell: the ink goes on. A small network of two classes sees each mark that looks like a digit in the picture
around it. Its images and recipe are those of `benchmarks/digit_context_data.py` and `benchmarks/digit_context.toml`.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.digits.foreground import Floats, median_of_sorted
from kilonet.data.digits.marks import Mark, in_grey
from kilonet.network.module import Network, initial_network
from kilonet.network.section import ModelSection

SIDE = 40
"""Rows and columns of the network's input."""
INPUT = (3, SIDE, SIDE)
LAYERS = (
    "conv 16 5x5 stride 2",
    "conv 24",
    "maxpool 2",
    "conv 32",
    "conv 32",
    "gap",
    "pointwise 2",
)
NEAR, WIDE = 1.8, 5.0
"""Sides of the two views, as multiples of the longer side of a mark's box."""
_SAMPLED = 160
"""The most rows and columns of the picture that a view is scaled down from."""


def whole_probabilities(marks: Sequence[Mark], picture: Floats) -> NDArray[np.float32]:
    """Return the probability that each of N marks is a whole digit if it looks like one, float32 (N,).

    Args:
        marks: marks of the picture.
        picture: float32 (rows, columns, channels).
    """
    if not marks:
        return np.empty(0, np.float32)
    views = np.stack(views_of(marks, picture))
    with torch.inference_mode():
        logits = _network()(torch.from_numpy(views))
        return np.asarray(logits.softmax(1)[:, 1].numpy(), np.float32)


def views_of(marks: Sequence[Mark], picture: Floats) -> list[NDArray[np.uint8]]:
    """Return what the network sees of each mark, uint8 (3, 40, 40): the picture near it, its own ink, a wider view."""
    grey = in_grey(picture)[:, :, 0]
    return [_view(mark, grey) for mark in marks]


def _view(mark: Mark, grey: Floats) -> NDArray[np.uint8]:
    longer = max(mark.box.height, mark.box.width)
    near, wide = (_window(mark, grey, share * longer) for share in (NEAR, WIDE))
    ink = _placed(mark, NEAR * longer)
    clear = near[ink < 0.1]
    paper = median_of_sorted(np.sort(clear if clear.size else near, None))
    # Ink becomes lighter than its paper, whatever it is in the picture; mark.contrast is not known of all marks.
    depth = float((near * ink).sum() / max(float(ink.sum()), 1e-6)) - paper
    scale = 0.5 / (depth if abs(depth) > 1 else 1.0)
    levels = [0.25 + scale * (one - paper) for one in (near, wide)]
    return np.asarray((255 * np.clip(np.stack([levels[0], ink, levels[1]]), 0, 1)).round(), np.uint8)


def _window(mark: Mark, grey: Floats, side: float) -> Floats:
    """Return a square of the picture around a mark, float32 (40, 40); beyond its edges it goes on as it is there."""
    count = min(max(round(side), SIDE), _SAMPLED)
    offsets = (np.arange(count) + 0.5) / count * side - side / 2
    rows, columns = (
        np.minimum(np.maximum((middle + offsets).astype(np.int64), 0), length - 1)
        for middle, length in zip((mark.box.y, mark.box.x), grey.shape, strict=True)
    )
    part = Image.fromarray(grey.take(rows, 0).take(columns, 1))
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def _placed(mark: Mark, side: float) -> Floats:
    """Return a mark's ink in the middle of a square of the picture, float32 (40, 40)."""
    height, width = (max(1, min(SIDE, round(length * mark.factor * SIDE / side))) for length in mark.ink.shape)
    ink = Image.fromarray(mark.ink).resize((width, height), Image.Resampling.BOX)
    placed = np.zeros((SIDE, SIDE), np.float32)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    placed[top : top + height, left : left + width] = np.asarray(ink)
    return placed


@cache
def _network() -> Network:
    network = initial_network(ModelSection(input=INPUT, layers=LAYERS), seed=0)
    network.load(safetensors.torch.load((files(__package__) / "digit_context.safetensors").read_bytes()))
    network.eval()
    return network
