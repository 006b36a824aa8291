"""The 15 corruptions of MNIST-C with their severities, drawn from a fixed seed.

Source: N. Mu, J. Gilmer, "MNIST-C: a robustness benchmark for computer vision", 2019, and the settings of its program.
This is a new implementation with SciPy and scikit-image. Its random numbers and its motion blur, which ImageMagick
computes there, are its own: single images differ from the published files, but their distribution is the same.

A corruption takes images, float64 (N, 28, 28), 0 to 1, and a random generator, and returns images of the same shape,
whose values may lie outside 0 to 1.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from skimage import feature
from skimage.transform import AffineTransform, warp
from skimage.util import random_noise

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import Classifier
from kilonet.utils.errors import KilonetError

Floats = NDArray[np.float64]
Corruption = Callable[[Floats, np.random.Generator], Floats]

SIDE = 28
_MIDDLE = 13.5
_PLASMA_SIDE = 256
_BATCH = 200


def shot_noise(images: Floats, random: np.random.Generator) -> Floats:
    """Replace pixels by photon counts (Poisson), on average three for a white pixel."""
    return random.poisson(images * 3) / 3


def impulse_noise(images: Floats, random: np.random.Generator) -> Floats:
    """Make 17 % of the pixels black or white."""
    return np.asarray(random_noise(images, mode="s&p", amount=0.17, rng=random))


def glass_blur(images: Floats, random: np.random.Generator) -> Floats:
    """Blur the images, swap neighbouring pixels in two passes, and blur again."""
    shuffled = np.floor(_blurred(images, 0.7) * 255) / 255
    numbers = np.arange(len(images))
    for row, column in 2 * [(row, column) for row in range(27, 1, -1) for column in range(27, 1, -1)]:
        swapped = random.random(len(images)) < 0.5
        rows, columns = row + random.integers(-1, 1, len(images)), column + random.integers(-1, 1, len(images))
        here, there = shuffled[:, row, column].copy(), shuffled[numbers, rows, columns]
        shuffled[numbers, rows, columns] = np.where(swapped, here, there)
        shuffled[:, row, column] = np.where(swapped, there, shuffled[:, row, column])
    return _blurred(shuffled, 0.7)


def motion_blur(images: Floats, random: np.random.Generator) -> Floats:
    """Smear over 21 pixels in a direction of -45 to 45 degrees, weighted by half a Gaussian with a std of 3 pixels.

    Source of the sampling: ImageMagick's MotionBlurImage.
    """
    angles = np.radians(random.uniform(-45, 45, len(images)))
    weights = np.exp(-(np.arange(21) ** 2) / (2 * 3**2))
    numbers, rows, columns = np.ogrid[: len(images), :SIDE, :SIDE]
    smeared = np.zeros_like(images)
    for step, weight in enumerate(weights / weights.sum()):
        down, across = (np.ceil(step * wave(angles) - 0.5).astype(int)[:, None, None] for wave in (np.sin, np.cos))
        smeared += weight * images[numbers, np.clip(rows + down, 0, 27), np.clip(columns + across, 0, 27)]
    return smeared


def shear(images: Floats, random: np.random.Generator) -> Floats:
    """Shear by 0.4 radians to either side."""

    def matrix(sign: int) -> Floats:
        return np.array([[1, -math.sin(0.4 * sign)], [0, math.cos(0.4)]])

    return _warped_either_way(images, random, matrix)


def scale(images: Floats, random: np.random.Generator) -> Floats:  # noqa: ARG001
    """Scale to 0.7 of the size."""
    return _warped(images, np.eye(2) / 0.7)


def rotate(images: Floats, random: np.random.Generator) -> Floats:
    """Rotate by 0.4 radians to either side."""

    def matrix(sign: int) -> Floats:
        sine, cosine = math.sin(0.4 * sign), math.cos(0.4)
        return np.array([[cosine, -sine], [sine, cosine]])

    return _warped_either_way(images, random, matrix)


def brightness(images: Floats, random: np.random.Generator) -> Floats:  # noqa: ARG001
    """Add half of white."""
    return images + 0.5


def translate(images: Floats, random: np.random.Generator) -> Floats:
    """Shift by three pixels in x and in y, each in a random direction."""
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3)))
    tops, lefts = 6 * random.integers(0, 2, (2, len(images), 1, 1))
    numbers, rows, columns = np.ogrid[: len(images), :SIDE, :SIDE]
    return np.asarray(padded[numbers, rows + tops, columns + lefts])


def stripe(images: Floats, random: np.random.Generator) -> Floats:  # noqa: ARG001
    """Invert the seven outer columns on each side."""
    inverted = images.copy()
    for columns in (slice(None, 7), slice(21, None)):
        inverted[:, :, columns] = 1 - inverted[:, :, columns]
    return inverted


def fog(images: Floats, random: np.random.Generator) -> Floats:
    """Add three times a plasma fractal, and scale the image so that its brightest pixel stays the same."""
    brightest = images.max((1, 2), keepdims=True)
    fogs = [_plasma(len(part), random) for part in np.split(images, range(_BATCH, len(images), _BATCH))]
    return np.asarray((images + 3 * np.concatenate(fogs)) * brightest / (brightest + 3))


def spatter(images: Floats, random: np.random.Generator) -> Floats:
    """Cover parts with spots of mud at a quarter of full brightness."""
    liquid = _blurred(random.normal(0.65, 0.3, images.shape), 1)
    mud = _blurred((liquid > 0.65).astype(np.float64), 1.5)
    mud[mud < 0.8] = 0
    return np.asarray(images * (1 - mud) + 63 / 255 * mud)


def dotted_line(images: Floats, random: np.random.Generator) -> Floats:
    """Draw a dotted line from side to side: two columns on, two columns off."""
    ends = random.integers(0, 27, (len(images), 2))
    gaps = np.arange(SIDE) // 2 % 2 == 0
    lines = np.stack([np.where(gaps, 0, _segment(0, left, 27, right)) for left, right in ends])
    return np.asarray(images + lines)


def zigzag(images: Floats, random: np.random.Generator) -> Floats:
    """Draw a zigzag line with waves four pixels long and four pixels high."""
    drawn = images.copy()
    for image in drawn:
        start = int(random.integers(0, 27))
        corners = _zigzag_corners(start, start + int(random.integers(-5, 5)))
        for (left, first), (right, last) in pairwise(corners):
            np.clip(image + _segment(left, first, right, last), 0, 1, out=image)
    return drawn


def canny_edges(images: Floats, random: np.random.Generator) -> Floats:  # noqa: ARG001
    """Keep only the edges that Canny's detector finds."""
    return np.stack([feature.canny(image) for image in images]).astype(np.float64)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        shot_noise,
        impulse_noise,
        glass_blur,
        motion_blur,
        shear,
        scale,
        rotate,
        brightness,
        translate,
        stripe,
        fog,
        spatter,
        dotted_line,
        zigzag,
        canny_edges,
    )
}


@dataclass(frozen=True)
class CorruptedEvaluation:
    """The accuracy of a model under each corruption. `str()` returns it as a table."""

    scored: str
    """The name of the set."""
    images: int
    clean: float
    """The accuracy on the images without corruption; all accuracies are fractions."""
    accuracies: dict[str, float]
    """The accuracy under each corruption, by its name."""
    mean: float
    """The mean accuracy over the corruptions, without the clean images."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the table."""
        rows = [("clean", self.clean), *self.accuracies.items(), ("mean of the corruptions", self.mean)]
        head = f"{self.scored} set: {self.images} images under the corruptions of MNIST-C"
        return "\n".join([head, *(f"{name:<23}  {100 * accuracy:6.2f}%" for name, accuracy in rows)])


def evaluate_corrupted(model: Classifier, images: Images) -> CorruptedEvaluation:
    """Score a model on images under each corruption.

    Raises:
        KilonetError: the images or the input of the model are not 28x28 and grey.
    """
    if tuple(images.pixels.shape[1:]) != (1, SIDE, SIDE):
        raise KilonetError(f"MNIST-C's corruptions are of 28x28 grey images, not {tuple(images.pixels.shape[1:])}")
    accuracies = {name: evaluate(model, corrupted(images, name)).accuracy for name in CORRUPTIONS}
    return CorruptedEvaluation(
        scored=images.name,
        images=len(images),
        clean=evaluate(model, images).accuracy,
        accuracies=accuracies,
        mean=sum(accuracies.values()) / len(accuracies),
    )


def corrupted(images: Images, name: str) -> Images:
    """Return images, uint8 (N, 1, 28, 28), with a corruption; equal images give equal results."""
    random = np.random.default_rng([2019, list(CORRUPTIONS).index(name)])
    changed = CORRUPTIONS[name](images.pixels[:, 0].numpy() / 255, random)
    pixels = (np.clip(changed, 0, 1) * 255).astype(np.uint8)
    return Images(torch.from_numpy(pixels).unsqueeze(1), images.labels, images.name)


def _blurred(images: Floats, sigma: float) -> Floats:
    return np.asarray(scipy.ndimage.gaussian_filter(images, (0, sigma, sigma), mode="nearest"))


def _warped(images: Floats, matrix: Floats) -> Floats:
    """Resample images bilinearly at matrix @ (x, y), counted from the middle; outside is black."""
    whole = np.eye(3)
    whole[:2, :2] = matrix
    whole[:2, 2] = _MIDDLE * (1 - matrix.sum(1))
    # scikit-image takes the last axis as the channels of one image.
    return np.asarray(np.moveaxis(warp(np.moveaxis(images, 0, -1), AffineTransform(whole)), -1, 0))


def _warped_either_way(images: Floats, random: np.random.Generator, matrix: Callable[[int], Floats]) -> Floats:
    signs = random.choice([-1, 1], (len(images), 1, 1))
    return np.where(signs > 0, _warped(images, matrix(1)), _warped(images, matrix(-1)))


def _plasma(count: int, random: np.random.Generator) -> Floats:
    """Return the corners of 256x256 plasma fractals, which range from 0 to 1: float64 (count, 28, 28).

    Source: A. Fournier, D. Fussell, L. Carpenter, "Computer rendering of stochastic models", 1982: midpoint
    displacement, here wrapped around at the borders; the displacement falls by a factor of 1.4 a level.
    """
    heights = np.zeros((count, _PLASMA_SIDE, _PLASMA_SIDE))
    step, reach = _PLASMA_SIDE, 100.0

    def displaced(sums: Floats) -> Floats:
        return sums / 4 + reach * random.uniform(-reach, reach, sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        squares = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = displaced(squares + np.roll(squares, -1, 2))
        middles = heights[:, half::step, half::step]
        across = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = displaced(across)
        down = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = displaced(down)
        step, reach = half, reach / 1.4
    lowest, highest = heights.min((1, 2), keepdims=True), heights.max((1, 2), keepdims=True)
    return np.asarray((heights[:, :SIDE, :SIDE] - lowest) / (highest - lowest))


def _segment(left: float, first: float, right: float, last: float) -> Floats:
    """Return a soft line between two points, given as (column, row), of brightness log(1 - distance / 2.3) + 1."""
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE), sparse=True)
    height = first + (last - first) / (right - left) * (columns - left)
    distance = np.clip(np.abs(rows - height), 0, 2.3 - 1e-10)
    within = (columns >= math.floor(left)) & (columns < math.ceil(right))
    return np.where(within, np.clip(np.log(1 - distance / 2.3) + 1, 0, 1), 0)


def _zigzag_corners(first: int, last: int) -> list[tuple[float, float]]:
    """Return the corners of a zigzag line, as (column, row), from column 2 to column 25."""
    angle = math.atan2(last - first, 23)
    length = 23 / math.cos(angle)
    waves = int((length - 2) // 4) + 1
    along = [0.0, *(2.0 * (2 * wave + 1) for wave in range(waves))]
    aside = [0.0, *(2.0 * (-1) ** wave for wave in range(waves))]
    rest = length - 4 * (length // 4)
    if rest:
        along.append(length)
        aside.append(aside[-1] / (2 * rest))
    sine, cosine = math.sin(angle), math.cos(angle)
    return [(2 + cosine * x - sine * y, first + sine * x + cosine * y) for x, y in zip(along, aside, strict=True)]
