"""Find the marks of a picture that may be digits, whatever surrounds them.

Ink is narrow: a stroke is darker, or lighter, than the picture on both sides of it. A closing with a square fills the
dark strokes that are narrower than the square, and its difference to the picture is their contrast; an opening does the
same for light strokes. What is wide, or goes on beyond the edge of the picture (desks, bars, shadows, glare), is left
as it is, so it never becomes ink. One square, on a picture that is halved again and again, covers strokes of any width.

Source: F. Meyer, "Iterative image transformations for an automatic screening of cervical smears", 1979 (top-hat).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from kilonet.data.digits.foreground import MINIMUM_CONTRAST, Floats, ink_direction, otsu
from kilonet.data.digits.layout import stroke_width

Bools = NDArray[np.bool_]

WIDEST = 2.0
"""The greatest ratio of width to height of a digit."""

FINEST = 256
"""Most pixels of the longer side of the finest picture that is searched."""
_SAMPLED = 160
"""Most pixels of the longer side of the picture whose colours are looked at."""
_SQUARE = 17
"""Side of the square, pixels."""
_COARSEST = 24
"""Pictures of a shorter side below twice this are not halved."""
_SHARES = (0.5, 0.25, 0.12)
"""The thresholds between paper and ink, as shares of the strongest contrast."""
_NOISE = 2.5
"""The least contrast, as a multiple of the median contrast of all pixels, which is that of the paper's noise."""
_LEAST = 5
"""The least length of a mark, pixels of the picture that is searched."""
_LEAST_COARSE = 9
"""The same where the picture was halved: what is smaller is found before."""
_MOST = 24
"""The most marks of one polarity and threshold that are looked at, by area."""
_MOST_ON_PAGE = 1500
"""The same for a page of digits."""
_GAP = 0.12
"""Pieces closer than this share of their height may belong to one digit."""
_SAME = 0.7
"""Boxes that share this part of their union are one mark, found twice."""

_BAR = 0.35
"""A mark that is no wider than this share of its height is a bar."""
_FILLED = 0.9
"""The least share of rows and of columns that a digit takes which fills its picture."""
_ALONG = 0.6
"""Ink along more than this share of an edge lies along the edge."""


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels, without its last row and column."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """The number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.right - self.left

    @property
    def x(self) -> float:
        """The column of the middle."""
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        """The row of the middle."""
        return (self.top + self.bottom) / 2

    def overlap(self, other: "Box") -> int:
        """Return the number of pixels that both cover."""
        rows = min(self.bottom, other.bottom) - max(self.top, other.top)
        columns = min(self.right, other.right) - max(self.left, other.left)
        return max(0, rows) * max(0, columns)

    def holds(self, other: "Box") -> bool:
        """Return whether it covers another box."""
        return self.overlap(other) == other.height * other.width

    def scaled(self, factor: float) -> "Box":
        """Return the box on a grid that is finer by a factor."""
        return Box(*(round(edge * factor) for edge in (self.top, self.bottom, self.left, self.right)))

    def as_json(self) -> dict[str, int]:
        """Return the edges as plain values."""
        return {"left": self.left, "top": self.top, "right": self.right, "bottom": self.bottom}


@dataclass(frozen=True)
class Mark:
    """Ink that may be a digit."""

    ink: Floats
    """float32 (rows, columns), 0 to 1: the ink of the mark's box, with a pixel around it; other ink in it is 0."""
    box: Box
    """In pixels of the picture."""
    contrast: float
    """Levels of 255 between ink and paper."""
    is_dark: bool
    """Whether the ink is darker than the paper."""
    edges: str
    """The edges of the picture that it touches, of `tblr`."""
    pieces: int
    """The number of connected pieces."""
    factor: int
    """How many pixels of the picture one pixel of the ink is wide."""

    @property
    def is_bar(self) -> bool:
        """Whether it is a mere upright stroke."""
        return self.box.width <= _BAR * self.box.height

    @property
    def stroke_width(self) -> float:
        """The mean width of the strokes, in pixels of the picture."""
        return stroke_width(self.ink) * self.factor

    def ink_within(self, box: Box) -> float:
        """Return the pixels of ink, of the picture, that lie in a box."""
        top, left = (
            (start - own) // self.factor for start, own in ((box.top, self.box.top), (box.left, self.box.left))
        )
        part = self.ink[
            max(0, top) : max(0, top + box.height // self.factor),
            max(0, left) : max(0, left + box.width // self.factor),
        ]
        return float(part.sum()) * self.factor**2


@dataclass(frozen=True)
class _Level:
    """A picture that was scaled down."""

    grey: Floats
    factor: int
    """How many pixels of the picture one of its pixels is wide."""


@dataclass(frozen=True)
class _Found:
    """A mark in the pixels of a level."""

    level: int
    is_dark: bool
    box: Box
    mask: Bools
    """bool (rows, columns) of the box."""
    paper: Floats
    """float32 of the whole level: the picture without its strokes."""
    edges: str
    pieces: int


def find_marks(picture: Floats) -> list[Mark]:
    """Return what may be a digit in a picture, float32 (rows, columns, channels); the same ink may be found twice.

    Marks much wider than high and those that touch two edges of the picture are left out: rules, borders, bars.
    """
    levels = _levels(picture, FINEST)
    return [*_filling(levels[0]), *_marks_in(levels, _MOST)]


def find_page_marks(picture: Floats) -> list[Mark]:
    """Return what may be one of many digits: hundreds of marks, in all the picture's pixels, of any width."""
    return _marks_in(_levels(picture, max(picture.shape[:2])), _MOST_ON_PAGE, any_width=True)


def _marks_in(levels: list[_Level], most: int, *, any_width: bool = False) -> list[Mark]:
    found: list[_Found] = []
    for is_dark in (True, False):
        boxes = np.empty((0, 4), np.int32)
        for number, level in enumerate(levels):
            for box, labels, numbers, paper in _pieces_of(level, number, is_dark, most, any_width):
                whole = box.scaled(level.factor)
                if (_shares(whole, boxes) > _SAME).any():
                    continue
                boxes = np.vstack([boxes, np.array([whole.top, whole.bottom, whole.left, whole.right], np.int32)])
                # Only now, as a page has thousands of groups, some as large as itself, and nearly all are old.
                part = labels[box.top : box.bottom, box.left : box.right]
                mask = part == numbers[0] if len(numbers) == 1 else np.isin(part, numbers)
                found.append(_Found(number, is_dark, box, mask, paper, _edges(box, level.grey), len(numbers)))
    return [_mark(one, levels[one.level]) for one in sorted(found, key=lambda one: (one.level, not one.is_dark))]


def _shares(box: Box, boxes: NDArray[np.int32]) -> Floats:
    """Return the part of the union of a box with each of others, int32 (N, 4), that both cover: float32 (N,)."""
    common = overlaps(box, boxes)
    areas = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return np.asarray(common / (areas + box.height * box.width - common), np.float32)


def overlaps(box: Box, boxes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the pixels that a box shares with each of others, int32 (N, 4): top, bottom, left, right; int32 (N,)."""
    top, bottom, left, right = boxes.T
    rows = np.minimum(bottom, box.bottom) - np.maximum(top, box.top)
    columns = np.minimum(right, box.right) - np.maximum(left, box.left)
    return np.asarray(np.maximum(rows, 0) * np.maximum(columns, 0), np.int32)


def _filling(level: _Level) -> list[Mark]:
    """Return the marks that may be a digit which fills its picture: of ink darker and for ink lighter than the paper.

    A picture that was cut at the ink has little paper, or less than ink, and none around it. Ink that lies along two
    edges of the picture, or in three of its corners, is a frame.
    """
    grey, factor = level.grey, level.factor
    threshold = otsu(grey)
    dark = grey < threshold
    if dark.all() or not dark.any():
        return []
    low, high = float(np.median(grey[dark])), float(np.median(grey[~dark]))
    if high - low < MINIMUM_CONTRAST:
        return []
    found: list[Mark] = []
    for paper, full in ((high, low), (low, high)):
        ink = np.asarray(np.clip((grey - paper) / (full - paper) * 1.15 - 0.1, 0, 1), np.float32)
        inked = ink > 0.5
        rows, columns = (np.flatnonzero(inked.mean(axis) > 0) for axis in (1, 0))
        if len(rows) < _FILLED * len(ink) or len(columns) < _FILLED * ink.shape[1]:
            continue
        along = [float(edge.mean()) for edge in (inked[0], inked[-1], inked[:, 0], inked[:, -1])]
        corners = int(inked[:: len(inked) - 1, :: inked.shape[1] - 1].sum()) if min(inked.shape) > 1 else 4
        if sum(share > _ALONG for share in along) <= 1 and corners <= 2:
            box = Box(0, len(ink) * factor, 0, ink.shape[1] * factor)
            found.append(Mark(ink, box, high - low, full < paper, "", 1, factor))
    return found


def in_grey(picture: Floats) -> Floats:
    """Return a picture, float32 (rows, columns, channels), in the colour in which it changes most, as one channel."""
    if picture.shape[2] == 1:
        return picture
    step = -(-max(picture.shape[:2]) // _SAMPLED)
    return np.asarray(picture @ ink_direction(picture[::step, ::step]), np.float32)[:, :, None]


def _levels(picture: Floats, finest: int) -> list[_Level]:
    factor = -(-max(picture.shape[:2]) // finest)
    levels = [_Level(reduced(in_grey(picture)[:, :, 0], factor), factor)]
    while min(levels[-1].grey.shape) >= 2 * _COARSEST:
        levels.append(_Level(reduced(levels[-1].grey, 2), 2 * levels[-1].factor))
    return levels


def reduced(values: Floats, factor: int) -> Floats:
    """Return means of squares of pixels; what is left at the lower and right edges is dropped."""
    if factor == 1:
        return values
    rows, columns = (side // factor * factor for side in values.shape[:2])
    total = np.zeros((rows // factor, columns // factor, *values.shape[2:]), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += values[row:rows:factor, column:columns:factor]
    return np.asarray(total / np.float32(factor**2), np.float32)


def _without_strokes(grey: Floats) -> Floats:
    """Return a picture whose dark strokes are filled; beyond its edges it goes on as it is there."""
    filled = np.pad(grey, _SQUARE - 1, "edge")
    for extreme in (np.maximum, np.minimum):
        for axis in (0, 1):
            filled = _over_windows(filled, extreme, axis)
    return filled


def _over_windows(values: Floats, extreme: np.ufunc, axis: int) -> Floats:
    """Return the maximum or minimum of each window of a square's length along an axis, where it fits.

    From windows of 1, 2, 4, ... that are joined in pairs, which for short windows is faster than SciPy's filter.
    """
    length = 1
    while length < _SQUARE:
        step = min(length, _SQUARE - length)
        count = values.shape[axis] - step
        one, other = (
            values[start : start + count] if axis == 0 else values[:, start : start + count] for start in (0, step)
        )
        values, length = extreme(one, other), length + step
    return values


def _pieces_of(
    level: _Level, number: int, is_dark: bool, most: int, any_width: bool
) -> Iterator[tuple[Box, NDArray[np.int32], list[int], Floats]]:
    """Yield what may be a mark: its box, the labels of the level's pieces, the numbers of its own, and the paper."""
    grey = level.grey if is_dark else -level.grey
    filled = _without_strokes(grey)
    contrast, paper = filled - grey, filled if is_dark else -filled
    least = max(MINIMUM_CONTRAST, _NOISE * float(np.median(contrast[::2, ::2])))
    strongest = float(contrast.max())
    if strongest <= least:
        return
    shortest = _LEAST_COARSE if number else _LEAST
    for threshold in sorted({max(share * strongest, least) for share in _SHARES}, reverse=True):
        labels, pieces = _pieces(contrast > threshold, most)
        for group in _groups(pieces):
            box = _around([piece[1] for piece in group])
            if max(box.height, box.width) < shortest:
                continue
            wide = box.width > WIDEST * box.height or len(_edges(box, grey)) > 1
            if not wide or (any_width and len(group) == 1):
                yield box, labels, [piece[0] for piece in group], paper


def _edges(box: Box, grey: Floats) -> str:
    """Return the edges of a level that a box touches, of `tblr`."""
    touched = (box.top == 0, box.bottom == grey.shape[0], box.left == 0, box.right == grey.shape[1])
    return "".join(side for side, touches in zip("tblr", touched, strict=True) if touches)


def _pieces(inked: Bools, most: int) -> tuple[NDArray[np.int32], list[tuple[int, Box]]]:
    """Return the connected pieces as labels, and the number and the box of the largest of them, by area."""
    labels, _ = scipy.ndimage.label(inked, np.ones((3, 3)))
    places = scipy.ndimage.find_objects(labels)
    areas = np.array([(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in places])
    largest = np.argsort(-areas, kind="stable")[:most].tolist()
    return labels, [(number + 1, _box(places[number])) for number in largest]


def _box(where: tuple[slice, ...]) -> Box:
    return Box(where[0].start, where[0].stop, where[1].start, where[1].stop)


def _around(boxes: list[Box]) -> Box:
    return Box(
        min(box.top for box in boxes),
        max(box.bottom for box in boxes),
        min(box.left for box in boxes),
        max(box.right for box in boxes),
    )


def _groups(pieces: list[tuple[int, Box]]) -> Iterator[list[tuple[int, Box]]]:
    """Yield every piece alone, and with those that are near."""
    for piece in pieces:
        yield [piece]
    if len(pieces) < 2:
        return
    # Takes half a second to import, also for a training, which has no use for it.
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    count, group = connected_components(_are_near([box for _, box in pieces]), directed=False)
    members: list[list[tuple[int, Box]]] = [[] for _ in range(count)]
    for piece, number in zip(pieces, group.tolist(), strict=True):
        members[number].append(piece)
    yield from (near for near in members if len(near) > 1)


def _are_near(boxes: list[Box]) -> Bools:
    """Return which boxes may belong to one digit, bool (N, N): those that are close, but none that holds another."""
    top, bottom, left, right = np.array([(box.top, box.bottom, box.left, box.right) for box in boxes], np.int32).T
    above, below = np.maximum.outer(top, top), np.minimum.outer(bottom, bottom)
    before, behind = np.maximum.outer(left, left), np.minimum.outer(right, right)
    height, area = bottom - top, (bottom - top) * (right - left)
    close = np.maximum(above - below, before - behind) < np.maximum(2, _GAP * np.maximum.outer(height, height))
    common = np.maximum(below - above, 0) * np.maximum(behind - before, 0)
    return np.asarray(close & (common != area) & (common != area[:, None]))


def _mark(found: _Found, level: _Level) -> Mark:
    """Return the ink of a mark."""
    grow = 2
    rows, columns = level.grey.shape
    outer = Box(
        max(0, found.box.top - grow),
        min(rows, found.box.bottom + grow),
        max(0, found.box.left - grow),
        min(columns, found.box.right + grow),
    )
    area = (slice(outer.top, outer.bottom), slice(outer.left, outer.right))
    contrast = found.paper[area] - level.grey[area]
    contrast = contrast if found.is_dark else -contrast
    mask = np.zeros(contrast.shape, np.bool_)
    top, left = found.box.top - outer.top, found.box.left - outer.left
    mask[top : top + found.box.height, left : left + found.box.width] = found.mask
    inside = contrast[mask]
    full = float(np.median(inside[inside >= np.median(inside)]))
    floor = 0.1 * full
    near = scipy.ndimage.binary_dilation(mask, np.ones((3, 3)))
    ink = np.where(near, np.clip((contrast - floor) / (full - floor), 0, 1), 0)
    return Mark(
        ink.astype(np.float32), outer.scaled(level.factor), full, found.is_dark, found.edges, found.pieces, level.factor
    )
