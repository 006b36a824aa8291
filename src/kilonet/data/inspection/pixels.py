"""What the pixels of a data set tell: mean and deviation, background, oddities, whether mirrored pictures are alike."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.datasets import DataSet, Images

EVEN_BACKGROUND = 0.3
"""The share of pixels of about one level that makes an even background."""

_NEAR = 8
"""Levels that are about one."""
_CHUNK = 4096
_LOOKED_AT = 4000
"""Images that are looked at where a part of them will do."""
_LEAST_TOLD = 25
"""The fewest images that must tell pictures from mirrored ones for the test to say anything."""
_EMPTY = 0.98
_FEW = 20
_DARK = 16
"""A highest level below this is no picture's, whose white is 255."""


def _chunks(pixels: Tensor) -> Iterator[Tensor]:
    return iter(pixels.split(_CHUNK))


def mean_and_std_of(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, 0 to 1, rounded to four digits.

    Args:
        pixels: uint8 (N, channels, rows, columns).
    """
    total = torch.zeros(pixels.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for chunk in _chunks(pixels):
        levels = chunk.to(torch.int32)
        total += levels.sum((0, 2, 3), dtype=torch.int64)
        squares += (levels * levels).sum((0, 2, 3), dtype=torch.int64)
    count = pixels.numel() // pixels.shape[1]
    means = total.double() / count
    deviations = (squares.double() / count - means * means).clamp(min=0).sqrt()
    # A recipe takes no mean of 1 and no deviation of 0, which blank images have.
    return (
        tuple(min(0.9999, round(mean / 255, 4)) for mean in means.tolist()),
        tuple(max(0.0001, round(std / 255, 4)) for std in deviations.tolist()),
    )


def as_good_mirrored(images: Images, classes: int) -> bool | None:
    """Return whether mirrored images are recognised as well as others, or None if too few images tell.

    Half of the images are averaged by class, and each one of the other half is taken for the nearest of these means, as
    it is and mirrored. Letters, readings of a scale and arrows are recognised far worse mirrored.
    """
    # By class, so that both halves have all of them in whatever order the images are.
    order = torch.argsort(images.labels, stable=True)[:: -(-len(images) // _LOOKED_AT)]
    small = functional.adaptive_avg_pool2d(images.pixels[order].float(), (min(16, images.pixels.shape[2]), 16))
    labels = images.labels[order]
    known, known_labels, asked, asked_labels = small[::2], labels[::2], small[1::2], labels[1::2]
    sums = torch.zeros(classes, known[0].numel(), dtype=torch.float64)
    sums.index_add_(0, known_labels, known.flatten(1).double())
    counts = torch.bincount(known_labels, minlength=classes)
    means = sums / counts.clamp(min=1)[:, None]
    right = []
    for pictures in (asked, asked.flip(3)):
        distances = torch.cdist(pictures.flatten(1).double(), means)
        # A class without an image among the known ones is nobody's nearest.
        distances[:, counts == 0] = torch.inf
        right.append(distances.argmin(1) == asked_labels)
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return None if lost + won < _LEAST_TOLD else lost - won <= 2 * math.sqrt(lost + won)


def dominant_level(pixels: Tensor) -> tuple[int, float]:
    """Return the level near which most pixels lie, and the share of pixels that do."""
    histogram = torch.zeros(256, dtype=torch.int64)
    for chunk in _chunks(pixels):
        histogram += torch.bincount(chunk.flatten().int(), minlength=256)
    summed = functional.conv1d(
        histogram.double().view(1, 1, -1), torch.ones(1, 1, 2 * _NEAR + 1).double(), padding=_NEAR
    )
    level = int(summed.argmax())
    return level, float(summed.max() / histogram.sum())


def has_empty_frame(images: Images, level: int) -> bool:
    """Return whether the outer fourteenth of nearly all images is background, so that there is room to move."""
    pixels = _some(images).pixels
    frame = max(1, round(min(pixels.shape[2:]) / 14))
    outer = torch.ones(pixels.shape[2:], dtype=torch.bool)
    outer[frame:-frame, frame:-frame] = False
    empty = (pixels[:, :, outer].int() - level).abs() <= _NEAR
    return bool(empty.float().mean() >= _EMPTY)


def pixel_notes(data: DataSet, dominant: int, share: float) -> list[str]:
    """Return what is odd about the pixels, a line each."""
    notes = []
    highest = int(data.train.pixels.max())
    if highest < _DARK:
        notes.append(f"the levels go from 0 to {highest} only, where 255 is white; were they scaled?")
    elif share >= EVEN_BACKGROUND and dominant > 128:
        notes.append("dark on light; pictures to predict must be so too")
    blank = sum(
        int((chunk.flatten(1).amax(1) == chunk.flatten(1).amin(1)).sum()) for chunk in _chunks(data.train.pixels)
    )
    if blank:
        notes.append(f"blank training images: {blank:,}")
    means = [images.pixels.float().mean((1, 2, 3)) for images in (_some(data.train), _some(data.test))]
    spread = float(torch.cat(means).std()) if len(torch.cat(means)) > 1 else 0.0
    apart = float(means[1].mean() - means[0].mean())
    if min(map(len, means)) >= _FEW and abs(apart) > spread:
        notes.append(
            f"test images are {'lighter' if apart > 0 else 'darker'} than training images by {abs(apart):.0f} levels"
        )
    return notes


def _some(images: Images) -> Images:
    step = -(-len(images) // _LOOKED_AT)
    return Images(images.pixels[::step], images.labels[::step], images.name)
