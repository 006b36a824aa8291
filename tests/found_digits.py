"""Digits as they are found on photos and scans, made from test images by Pillow alone; nothing here is the package's.

Every picture is shifted, scaled by 0.5 to 2 and rotated by up to 15 degrees; half of them are inverted, half lie on a
lighting gradient, half are in colour, half are JPEG files of middling quality, a third each has thinned, thickened and
unchanged strokes. Which picture gets what is drawn from its number.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

FINE = 6
"""Strokes are thinned and digits turned on a grid that is finer by this factor."""


@dataclass(frozen=True)
class Change:
    """What befalls one digit."""

    scale: float
    degrees: float
    stroke: Literal["thin", "plain", "thick"]
    inverted: bool
    gradient: bool
    coloured: bool
    quality: int | None
    """JPEG quality; None for a PNG file."""
    seed: int


def draw_change(number: int) -> Change:
    """Draw the change of the picture of that number."""
    random = np.random.default_rng([20, number])
    return Change(
        scale=float(2 ** random.uniform(-1, 1)),
        degrees=float(random.uniform(-15, 15)),
        stroke=("thin", "plain", "thick")[number % 3],
        inverted=bool(random.integers(2)),
        gradient=bool(random.integers(2)),
        coloured=bool(random.integers(2)),
        quality=int(random.integers(40, 90)) if random.integers(2) else None,
        seed=number,
    )


def found_digit(pixels: NDArray[np.uint8], change: Change) -> bytes:
    """Make a PNG or JPEG file of a digit, uint8 (28, 28) with light ink on black."""
    random = np.random.default_rng([21, change.seed])
    ink = _placed(_turned(_with_stroke(pixels, change), change), random)
    picture = _on_paper(ink, change, random)
    noise = random.normal(0, 3, picture.shape)
    return _encoded(np.clip(picture + noise, 0, 255).astype(np.uint8), change)


def distorted(pixels: NDArray[np.uint8], change: Change) -> NDArray[np.float32]:
    """Return the ink of a digit, uint8 (28, 28), with its strokes changed, turned and scaled: 0 to 1."""
    return np.asarray(_turned(_with_stroke(pixels, change), change), np.float32) / np.float32(255)


def _with_stroke(pixels: NDArray[np.uint8], change: Change) -> Image.Image:
    fine = Image.fromarray(pixels).resize((28 * FINE, 28 * FINE), Image.Resampling.BICUBIC)
    if change.stroke == "plain":
        return fine
    # A filter of 5 takes, or adds, a third of an original pixel on either side of a stroke.
    return fine.filter(ImageFilter.MinFilter(5) if change.stroke == "thin" else ImageFilter.MaxFilter(5))


def _turned(fine: Image.Image, change: Change) -> Image.Image:
    size = round(28 * change.scale)
    return fine.rotate(change.degrees, Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BOX)


def _placed(digit: Image.Image, random: np.random.Generator) -> NDArray[np.float64]:
    """Put the digit anywhere on a sheet; returns the ink's share of each pixel, (rows, columns)."""
    rows, columns = (int(digit.height * random.uniform(1.1, 2.5)) for _ in range(2))
    top, left = int(random.integers(rows - digit.height + 1)), int(random.integers(columns - digit.width + 1))
    sheet = np.zeros((rows, columns))
    sheet[top : top + digit.height, left : left + digit.width] = np.asarray(digit) / 255
    return sheet


def _on_paper(ink: NDArray[np.float64], change: Change, random: np.random.Generator) -> NDArray[np.float64]:
    dark, light = random.uniform(10, 70, 3), random.uniform(170, 245, 3)
    if not change.coloured:
        dark, light = dark[:1], light[:1]
    paper, pen = (dark, light) if change.inverted else (light, dark)
    lighting = _lighting(ink.shape, random) if change.gradient else np.ones(ink.shape)
    return np.asarray(((1 - ink[..., None]) * paper + ink[..., None] * pen) * lighting[..., None])


def _lighting(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """Light that falls to 0.4 to 0.8 from one side of the sheet to the other."""
    angle, least = random.uniform(0, 2 * np.pi), random.uniform(0.4, 0.8)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    along = (along - along.min()) / (along.max() - along.min())
    return np.asarray(1 - (1 - least) * along)


def _encoded(picture: NDArray[np.uint8], change: Change) -> bytes:
    image = Image.fromarray(picture if change.coloured else picture[..., 0])
    stream = io.BytesIO()
    if change.quality is None:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=change.quality)
    return stream.getvalue()
