"""Pages with many digits: rows on paper, Sudoku grids, forms of boxes. Nothing here is the package's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from marks import Ink, Random, any_digit

Floats = NDArray[np.float64]
Edges = tuple[float, float, float, float]
"""Left, top, right and bottom of a box."""
_EMPTY = 0.4
"""The share of empty boxes in a form."""


@dataclass(frozen=True)
class Placed:
    """A digit of a page."""

    digit: int
    x: float
    """Column of the middle of its ink."""
    y: float
    """Row of the middle of its ink."""
    height: int

    def is_in(self, box: Edges) -> bool:
        """Return whether a box has about the middle and the height of the ink."""
        left, top, right, bottom = box
        apart = np.hypot((left + right) / 2 - self.x, (top + bottom) / 2 - self.y)
        return bool(apart < 0.4 * self.height and 0.6 < (bottom - top) / self.height < 1.8)


@dataclass(frozen=True)
class DigitPage:
    """A page with its digits in reading order."""

    picture: Image.Image
    digits: tuple[Placed, ...]

    def numbers(self, boxes: Sequence[Edges]) -> list[int | None]:
        """Return for each digit the number of the box around it and it alone; None if there is none."""
        return [next((number for number, box in enumerate(boxes) if one.is_in(box)), None) for one in self.digits]


@dataclass(frozen=True)
class Digits:
    """Images of MNIST to draw from, beside fonts and pens."""

    pixels: NDArray[np.uint8]
    """uint8 (N, 28, 28)."""
    labels: NDArray[np.int64]
    """int64 (N,)."""

    def draw(self, source: str, height: int, random: Random) -> tuple[int, Ink]:
        """Draw a digit from a source of `any_digit`."""
        digit = int(random.integers(10))
        return digit, any_digit(digit, source, self.pixels[self.labels == digit], height, random)


def page_of_rows(digits: Digits, random: Random, *, rows: int = 10, each: int = 10) -> DigitPage:
    """Draw handwritten digits in rows that slope, by 5 degrees at most, and are not quite straight."""
    height = int(random.integers(32, 64))
    pitch, line = 1.25 * height, random.uniform(1.5, 2) * height
    slope = np.tan(np.radians(random.uniform(-5, 5)))
    size = (int((rows + 1) * line + abs(slope) * each * pitch), int((each + 1) * pitch))
    ink = np.zeros(size)
    placed: list[Placed] = []
    for row in range(rows):
        own = slope + random.normal(0, 0.006)
        for column in range(each):
            digit, mark = digits.draw("mnist", int(height * random.uniform(0.8, 1.15)), random)
            x = (column + 1) * pitch + random.normal(0, 0.04) * height
            y = (row + 1) * line + own * x + max(0.0, -slope * each * pitch) + random.normal(0, 0.05) * height
            placed.append(_put(ink, digit, mark, x, y))
    return DigitPage(_photographed(ink, random), tuple(placed))


def sudoku(digits: Digits, random: Random) -> DigitPage:
    """Draw a Sudoku grid with about 30 digits, all printed or all by hand, turned by 3 degrees at most."""
    cell = int(random.integers(36, 90))
    margin = cell // 2
    side = 9 * cell + 2 * margin
    ink = np.zeros((side, side))
    source = str(random.choice(["font", "mnist", "pen"]))
    thin, thick = max(1, cell // 40), max(2, cell // 16)
    for line in range(10):
        at, wide = margin + line * cell, thick if line % 3 == 0 else thin
        ink[margin : side - margin + wide, at : at + wide] = ink[at : at + wide, margin : side - margin + wide] = 1
    placed: list[Placed] = []
    for row in range(9):
        for column in range(9):
            if random.uniform() < 0.37:
                digit, mark = digits.draw(source, int(random.uniform(0.5, 0.62) * cell), random)
                x, y = (margin + (place + 0.5) * cell + random.normal(0, 0.02) * cell for place in (column, row))
                placed.append(_put(ink, digit, mark, x + wide / 2, y + wide / 2))
    return _turned(ink, placed, random)


def form(digits: Digits, random: Random) -> DigitPage:
    """Draw rows of boxes, apart or joined, some of them empty, with a digit in each of the others."""
    height = int(random.integers(28, 60))
    box, joined = int(1.7 * height), bool(random.integers(2))
    step, line = box if joined else int(1.25 * box), int(2.2 * box)
    rows, each = 6, 8
    ink = np.zeros(((rows + 1) * line, (each + 1) * step + box))
    wide = max(1, height // 20)
    placed: list[Placed] = []
    for row in range(rows):
        for column in range(each):
            top, left = line // 2 + row * line, step // 2 + column * step
            ink[top : top + box, left : left + box + wide] = 1
            ink[top + wide : top + box - wide, left + wide : left + box] = 0
        for column in range(each):
            top, left = line // 2 + row * line, step // 2 + column * step
            if random.uniform() >= _EMPTY:
                digit, mark = digits.draw(str(random.choice(["mnist", "pen"])), height, random)
                x, y = (start + box / 2 + random.normal(0, 0.03) * box for start in (left, top))
                placed.append(_put(ink, digit, mark, x, y))
    return _turned(ink, placed, random)


def _put(ink: Ink, digit: int, mark: Ink, x: float, y: float) -> Placed:
    top, left = int(y - mark.shape[0] / 2), int(x - mark.shape[1] / 2)
    part = ink[top : top + mark.shape[0], left : left + mark.shape[1]]
    part[:] = np.maximum(part, mark)
    return Placed(digit, x, y, mark.shape[0])


def _turned(ink: Ink, placed: list[Placed], random: Random) -> DigitPage:
    """Turn a page about its middle."""
    angle = random.uniform(-3, 3)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = Image.fromarray((255 * ink).astype(np.uint8)).rotate(angle, Image.Resampling.BICUBIC)
    y, x = (side / 2 for side in ink.shape)
    moved = tuple(
        Placed(
            one.digit,
            x + cos * (one.x - x) + sin * (one.y - y),
            y - sin * (one.x - x) + cos * (one.y - y),
            one.height,
        )
        for one in placed
    )
    return DigitPage(_photographed(np.asarray(turned, np.float64) / 255, random), moved)


def _photographed(ink: Ink, random: Random) -> Image.Image:
    """Write ink on paper of a colour, in light that slopes, with the camera's noise and blur."""
    rows, columns = ink.shape
    paper, pen = random.uniform(190, 250, 3), random.uniform(10, 90) + random.normal(0, 8, 3)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = 1 - random.uniform(0, 0.2) * (1 + np.cos(angle) * x + np.sin(angle) * y)
    values = ((1 - ink[..., None]) * paper + ink[..., None] * pen) * light[..., None]
    values += random.normal(0, random.uniform(2, 8), (rows, columns, 1))
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.8)))
