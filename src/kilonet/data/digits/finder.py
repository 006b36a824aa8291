"""What a network is shown of a picture, and the objections to showing it."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.decode import Picture
from kilonet.data.digits.components import Mark, Marks, find_marks
from kilonet.data.digits.foreground import find_ink
from kilonet.data.digits.frame import BOX, SIDE, is_laid_out
from kilonet.data.digits.layout import lay_out, stroke_width
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError

SMALLEST = 6
"""Rows, or columns, that a mark has to have to be read."""
THICKEST_READ = 7.0
"""Mean width of strokes, in twentieths of the mark's longer side, over which it is a blob."""
WIDEST = 2.0
"""Width over height beyond which a mark is no digit."""
SMALL_MARK = 0.4
"""In a row, what is lower than this share of the highest mark is a dot or a comma."""
MOST_PIECES = 40
"""More pieces than this are a texture, not digits."""
WIDE_GAP = 0.3
"""Marks of like height that are this share of it apart are not of one digit."""

NOTHING = "nothing stands out from the background"
SMALL = f"smaller than {SMALLEST} pixels"
BLOB = "a blob, not strokes"
FLAT = "much wider than high"
SEVERAL = "several separate marks; show one digit, or read a row with kilonet predict --line"
TEXTURE = f"more than {MOST_PIECES} separate pieces"


@dataclass(frozen=True)
class PreparedImage:
    """One digit's image as the network is shown it."""

    pixels: NDArray[np.uint8]
    """uint8 (28, 28) light on black, or the shape of the network's input."""
    objection: str | None = None
    """Why it is no digit, if it is none."""
    as_given: bool = False
    """Whether the pixels are the file's own, which were laid out like MNIST's already."""


_NO_MARKS = Marks((), None)
_EMPTY = PreparedImage(np.zeros((SIDE, SIDE), np.uint8), NOTHING)


def prepare_digit(picture: Picture) -> PreparedImage:
    """Find the one digit of a picture. What is laid out like MNIST's images already is taken as it is."""
    if picture.grey is not None and is_laid_out(picture.grey):
        return PreparedImage(picture.grey, as_given=True)
    ink = find_ink(picture.values)
    marks = _NO_MARKS if ink is None else find_marks(ink)
    if marks.whole is None:
        return _EMPTY
    if _is_texture(marks):
        return PreparedImage(lay_out(marks.whole.ink), TEXTURE)
    if _are_several(marks.apart, marks.whole):
        return PreparedImage(lay_out(marks.whole.ink), SEVERAL)
    return _sight(marks.whole)


def prepare_row(picture: Picture) -> list[PreparedImage]:
    """Find the separate digits of a row, from left to right; marks that are low beside the others are left out."""
    ink = find_ink(picture.values)
    marks = _NO_MARKS if ink is None else find_marks(ink)
    if _is_texture(marks):
        return [PreparedImage(np.zeros((SIDE, SIDE), np.uint8), TEXTURE)]
    highest = max((mark.height for mark in marks.apart), default=0)
    return [_sight(mark) for mark in marks.apart if mark.height >= SMALL_MARK * highest] or [_EMPTY]


def prepare_plain(picture: Picture, shape: Shape, name: str) -> PreparedImage:
    """Take a picture that has the network's size as it is, in colour or grey as the network wants it.

    Args:
        picture: the picture.
        shape: (channels, rows, columns) of the network's input, one channel or three.
        name: what messages call the picture.

    Raises:
        KilonetError: another size, or a network with another number of channels.
    """
    channels, rows, columns = shape
    found_rows, found_columns, found_channels = picture.values.shape
    if channels not in (1, 3):
        raise KilonetError(f"{name}: the network takes {channels} channels; images have 1 or 3")
    if (found_rows, found_columns) != (rows, columns):
        raise KilonetError(
            f"{name}: {found_columns}x{found_rows} pixels, not {columns}x{rows}; crop and scale it first"
        )
    values = picture.values.round().astype(np.uint8)
    if channels == found_channels:
        return PreparedImage(values[:, :, 0] if channels == 1 else values.transpose(2, 0, 1))
    if channels == 1:
        return PreparedImage(np.asarray(Image.fromarray(values).convert("L")))
    return PreparedImage(np.repeat(values.transpose(2, 0, 1), 3, 0))


def _are_several(marks: tuple[Mark, ...], whole: Mark) -> bool:
    """Tell a row of digits from one digit in pieces: marks of like height, far apart or together wider than a digit."""
    like = [mark for mark in marks if mark.height >= 0.6 * whole.height]
    gaps = [after.left - before.left - before.width for before, after in pairwise(like)]
    return bool(gaps) and (whole.width > 1.2 * whole.height or max(gaps) > WIDE_GAP * whole.height)


def _is_texture(marks: Marks) -> bool:
    return sum(mark.pieces for mark in marks.apart) > MOST_PIECES


def _sight(mark: Mark) -> PreparedImage:
    longer = max(mark.height, mark.width)
    if longer < SMALLEST:
        return PreparedImage(lay_out(mark.ink), SMALL)
    if mark.width > WIDEST * mark.height:
        return PreparedImage(lay_out(mark.ink), FLAT)
    if stroke_width(mark.ink) * BOX / longer > THICKEST_READ:
        return PreparedImage(lay_out(mark.ink), BLOB)
    return PreparedImage(lay_out(mark.ink))
