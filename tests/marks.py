"""Digits, letters and signs as ink: from MNIST, from fonts and from a pen's strokes. Nothing here is the package's."""

from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Ink = NDArray[np.float64]
"""(rows, columns), from 0 for paper to 1 for ink; the mark fills the array, without a margin."""
Random = np.random.Generator

LETTERS = "ABCDEFGHJKLMNPQRTUVWXYadefhijkmnprtuvwxy"
"""Letters that no digit looks like: without I, O, S, Z, b, c, g, l, o, q, s and z."""
SIGNS = "?!#&%@+=*$<>{}[]~^§©€π÷√∞"

_FINE = 4
FONTS = [
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
]
"""Twenty fonts that come with matplotlib."""


Point = tuple[float, float]


def _arc(middle: Point, radii: Point, start: float, end: float) -> list[Point]:
    """Return points of an ellipse from one angle to another, in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(middle[0] + radii[0] * np.cos(angle), middle[1] + radii[1] * np.sin(angle)) for angle in angles]


Strokes = tuple[list[Point], ...]

_DIGITS: dict[str, tuple[Strokes, ...]] = {
    "0": ((_arc((0.35, 0.5), (0.35, 0.5), -90, 270),),),
    "1": (([(0.0, 0.25), (0.25, 0.0), (0.25, 1.0)],), ([(0.1, 0.0), (0.1, 1.0)],), ([(0.2, 0.0), (0.0, 1.0)],)),
    "2": (([*_arc((0.33, 0.28), (0.33, 0.28), -170, 30), (0.0, 1.0), (0.68, 1.0)],),),
    "3": (([*_arc((0.3, 0.25), (0.3, 0.25), -160, 90), *_arc((0.3, 0.74), (0.36, 0.26), -90, 160)],),),
    "4": (([(0.45, 0.0), (0.0, 0.62), (0.7, 0.62)], [(0.5, 0.3), (0.47, 1.0)]),),
    "5": (([(0.62, 0.0), (0.1, 0.0), (0.06, 0.45), *_arc((0.3, 0.68), (0.34, 0.32), -130, 150)],),),
    "6": (([(0.5, 0.0), (0.15, 0.35), *_arc((0.33, 0.7), (0.33, 0.3), 180, 540)],),),
    "7": (([(0.0, 0.02), (0.66, 0.0), (0.25, 1.0)],), ([(0, 0), (0.66, 0), (0.25, 1)], [(0.15, 0.5), (0.6, 0.5)])),
    "8": (([*_arc((0.33, 0.25), (0.26, 0.25), 90, -270), *_arc((0.33, 0.75), (0.33, 0.25), -90, 270)],),),
    "9": (([*_arc((0.3, 0.28), (0.3, 0.28), 0, -360), (0.58, 0.4), (0.5, 1.0)],),),
}
_OTHERS: dict[str, Strokes] = {
    "A": ([(0, 1), (0.4, 0), (0.8, 1)], [(0.15, 0.62), (0.66, 0.62)]),
    "E": ([(0.6, 0), (0, 0), (0, 1), (0.6, 1)], [(0, 0.5), (0.5, 0.5)]),
    "F": ([(0.6, 0), (0, 0), (0, 1)], [(0, 0.5), (0.5, 0.5)]),
    "H": ([(0, 0), (0, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.5), (0.7, 0.5)]),
    "K": ([(0, 0), (0, 1)], [(0.65, 0), (0, 0.55), (0.7, 1)]),
    "M": ([(0, 1), (0.05, 0), (0.4, 0.6), (0.75, 0), (0.8, 1)],),
    "N": ([(0, 1), (0, 0), (0.7, 1), (0.7, 0)],),
    "P": ([(0, 1), (0, 0), *_arc((0.3, 0.25), (0.3, 0.25), -90, 90), (0, 0.5)],),
    "R": ([(0, 1), (0, 0), *_arc((0.3, 0.25), (0.3, 0.25), -90, 90), (0, 0.5), (0.6, 1)],),
    "T": ([(0, 0), (0.8, 0)], [(0.4, 0), (0.4, 1)]),
    "V": ([(0, 0), (0.35, 1), (0.7, 0)],),
    "W": ([(0, 0), (0.2, 1), (0.45, 0.2), (0.7, 1), (0.9, 0)],),
    "X": ([(0, 0), (0.7, 1)], [(0.7, 0), (0, 1)]),
    "Y": ([(0, 0), (0.35, 0.5)], [(0.7, 0), (0.35, 0.5), (0.35, 1)]),
    "+": ([(0, 0.5), (1, 0.5)], [(0.5, 0), (0.5, 1)]),
    "=": ([(0, 0.3), (0.8, 0.3)], [(0, 0.7), (0.8, 0.7)]),
    "star": ([(0.5, 0), (0.5, 1)], [(0.07, 0.25), (0.93, 0.75)], [(0.93, 0.25), (0.07, 0.75)]),
    "triangle": ([(0, 1), (0.5, 0), (1, 1), (0, 1)],),
    "square": ([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)],),
    "check": ([(0, 0.6), (0.3, 1), (1, 0)],),
    "arrow": ([(0, 0.5), (1, 0.5), (0.7, 0.2)], [(1, 0.5), (0.7, 0.8)]),
    "house": ([(0, 1), (0, 0.4), (0.5, 0), (1, 0.4), (1, 1), (0, 1)],),
    "face": (
        _arc((0.5, 0.5), (0.5, 0.5), 0, 360),
        _arc((0.5, 0.55), (0.28, 0.25), 20, 160),
        [(0.33, 0.3), (0.33, 0.38)],
    ),
    "bolt": ([(0.5, 0), (0.1, 0.55), (0.5, 0.5), (0.1, 1)],),
}
STROKED = tuple(_OTHERS)
"""Names of the letters and signs that a pen draws."""


def mnist_mark(pixels: NDArray[np.uint8], height: int) -> Ink:
    """Enlarge a digit of MNIST, uint8 (28, 28), smoothly to a height of its ink."""
    rows, columns = (np.flatnonzero(pixels.max(axis) > 40) for axis in (1, 0))
    cut = Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    width = max(2, round(cut.width * height / cut.height))
    large = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    # As sharp as a pen, unless it is small.
    sharp = max(1.0, height / 40)
    return np.clip((large - 0.5) * sharp + 0.5, 0, 1)


def font_mark(text: str, font: str, height: int) -> Ink:
    """Write a text in one of the fonts, scaled to a height of its ink."""
    face = _face(font)
    box = face.getbbox(text)
    image = Image.new("L", (int(box[2] - box[0]) + 8, int(box[3] - box[1]) + 8))
    ImageDraw.Draw(image).text((4 - box[0], 4 - box[1]), text, 255, face)
    return _to_height(image, height)


def stroke_mark(name: str, height: int, random: Random, *, wide: float | None = None) -> Ink:
    """Draw a digit, a letter or a sign with a round pen, `wide` as a share of the height."""
    strokes = _OTHERS[name] if name in _OTHERS else _DIGITS[name][int(random.integers(len(_DIGITS[name])))]
    size = min(height, 120) * _FINE
    pen = max(2, round((random.uniform(0.06, 0.16) if wide is None else wide) * size))
    aspect, slant = random.uniform(0.75, 1.15), random.uniform(-0.08, 0.25)
    image = Image.new("L", (2 * size, int(1.4 * size)))
    draw = ImageDraw.Draw(image)
    swing = random.normal(0, 0.018, (len(strokes), 4))
    for stroke, (dx, dy, bend, turn) in zip(strokes, swing, strict=True):
        points = [
            (
                0.4 * size + size * (aspect * x + slant * (1 - y) + dx + bend * np.sin(6 * y)),
                0.2 * size + size * (y * 0.9 + dy + turn * np.sin(6 * x)),
            )
            for x, y in stroke
        ]
        draw.line(points, 255, pen, "curve")
        for x, y in points:
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    return _to_height(image, height)


def any_digit(digit: int, source: str, images: NDArray[np.uint8], height: int, random: Random) -> Ink:
    """Draw a digit.

    Args:
        digit: from 0 to 9.
        source: `mnist`, `font` or `pen`.
        images: images of MNIST of that digit, uint8 (N, 28, 28), of which one is taken for `mnist`.
        height: of the ink, pixels.
        random: draws the image, the font and the stroke.
    """
    if source == "mnist":
        return mnist_mark(images[int(random.integers(len(images)))], height)
    if source == "font":
        return font_mark(str(digit), str(random.choice(FONTS)), height)
    return stroke_mark(str(digit), height, random)


def any_letter(height: int, random: Random) -> Ink:
    """Draw a letter or a sign in a font, a third of them with a pen."""
    if random.integers(3) == 0:
        return stroke_mark(str(random.choice(STROKED)), height, random)
    return font_mark(str(random.choice([*LETTERS, *SIGNS])), str(random.choice(FONTS)), height)


def side_by_side(left: Ink, right: Ink, gap: int) -> Ink:
    """Lay two marks on one line; a negative gap lets their boxes overlap by so many pixels."""
    height = max(left.shape[0], right.shape[0])
    start = max(0, left.shape[1] + gap)
    whole = np.zeros((height, max(left.shape[1], start + right.shape[1])))
    whole[height - left.shape[0] :, : left.shape[1]] = left
    part = whole[height - right.shape[0] :, start : start + right.shape[1]]
    part[:] = np.maximum(part, right)
    return whole


def touching(marks: list[Ink], random: Random) -> Ink:
    """Push marks together until their ink touches, and a little further."""
    row = marks[0]
    for mark in marks[1:]:
        gap = 0
        height = max(row.shape[0], mark.shape[0])
        left, right = (np.pad(one, ((height - one.shape[0], 0), (0, 0))) > 0.5 for one in (row, mark))
        reach = left.shape[1] - 1 - np.where(left.any(1), left.shape[1] - 1 - left[:, ::-1].argmax(1), -(10**6))
        ahead = np.where(right.any(1), right.argmax(1), 10**6)
        gap = -int((reach + ahead).min()) - max(1, int(random.uniform(0.02, 0.06) * height))
        row = side_by_side(row, mark, gap)
    return row


def _to_height(image: Image.Image, height: int) -> Ink:
    box = image.getbbox()
    cut = image.crop(box) if box else image
    size = (max(2, round(cut.width * height / cut.height)), height)
    scaled = np.asarray(cut.resize(size, Image.Resampling.BOX if cut.height > height else Image.Resampling.BICUBIC))
    return np.asarray(scaled, np.float64) / 255


@cache
def _face(font: str) -> ImageFont.FreeTypeFont:
    bundled = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    return ImageFont.truetype(bundled if bundled.exists() else font, 150)
