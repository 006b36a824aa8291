"""Find the marks of a picture that may be digits, whatever surrounds them.

Ink is narrow: a stroke is darker, or lighter, than the picture on both sides of it. A closing with a square fills the
dark strokes that are narrower than the square, and its difference to the picture is their contrast; an opening does the
same for light strokes. What is wide, or goes on beyond the edge of the picture (desks, bars, shadows, glare), is left
as it is, so it never becomes ink. One square, on a picture that is halved again and again, covers strokes of any width.

Source: F. Meyer, "Iterative image transformations for an automatic screening of cervical smears", 1979 (top-hat).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import scipy
from numpy.typing import NDArray

from kilonet.data.digits.foreground import MINIMUM_CONTRAST, Floats, ink_direction, median_of_sorted, two_classes
from kilonet.data.digits.layout import grown, stroke_width

Bools = NDArray[np.bool_]

WIDEST = 2.0
"""The greatest ratio of width to height of a digit."""

_FINEST = 256
"""Most pixels of the longer side of the finest picture that is searched."""
_SAMPLED = 160
"""Most pixels of the longer side of the picture whose colours are looked at."""
_SQUARE = 17
"""Side of the square, pixels."""
_COARSEST = 24
"""Pictures of a shorter side below twice this are not halved."""
_WITHIN = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])
"""The neighbours of a pixel for the pieces of several thresholds at once: all eight, of its own threshold."""
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
    def area(self) -> int:
        """The number of pixels."""
        return self.height * self.width

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
        return self.overlap(other) == other.area

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
class _Group:
    """Connected pieces of ink in a level, one or several that are near, which may be a mark."""

    level: int
    box: Box
    labels: NDArray[np.int32]
    """int32 of the whole level: the number of each pixel's piece, or 0."""
    numbers: list[int]
    """The numbers of its pieces."""
    paper: Floats
    """float32 of the whole level: the picture without its strokes."""


def find_marks(picture: Floats) -> list[Mark]:
    """Return what may be a digit in a picture, float32 (rows, columns, channels); the same ink may be found twice.

    Marks much wider than high and those that touch two edges of the picture are left out: rules, borders, bars.
    """
    levels = _levels(picture, _FINEST)
    return [*_filling(levels[0]), *_marks_in(levels, _MOST)]


def find_page_marks(picture: Floats) -> list[Mark]:
    """Return what may be one of many digits: hundreds of marks, in all the picture's pixels, of any width."""
    return _marks_in(_levels(picture, max(picture.shape[:2])), _MOST_ON_PAGE, any_width=True)


def _marks_in(levels: list[_Level], most: int, *, any_width: bool = False) -> list[Mark]:
    found: list[tuple[_Group, Mark]] = []
    for is_dark in (True, False):
        groups = [
            group
            for number, level in enumerate(levels)
            for group in _groups_in(level, number, is_dark, most, any_width)
        ]
        found += [(group, _mark(group, is_dark, levels[group.level])) for group in _without_repeats(groups, levels)]
    return [mark for _, mark in sorted(found, key=lambda one: (one[0].level, not one[1].is_dark))]


def _without_repeats(groups: list[_Group], levels: list[_Level]) -> list[_Group]:
    """Return groups of pieces but for those that lie where one before them does."""
    boxes = [one.box.scaled(levels[one.level].factor) for one in groups]
    return [groups[number] for number in kept_in_turn(boxes, lambda box, others: _shares(box, others) > _SAME)]


def kept_in_turn(boxes: Sequence[Box], clash: Callable[[Box, NDArray[np.int32]], Bools]) -> list[int]:
    """Return the places of the boxes that clash with none that was kept before them.

    `clash` returns whether a box clashes with each of others, int32 (N, 4): bool (N,).
    """
    sides = _sides_of(boxes)
    is_free = np.ones(len(boxes), np.bool_)
    kept: list[int] = []
    for number, box in enumerate(boxes):
        if is_free[number]:
            kept.append(number)
            is_free &= ~clash(box, sides)
    return kept


def _sides_of(boxes: Sequence[Box]) -> NDArray[np.int32]:
    """Return the top, bottom, left and right of N boxes, int32 (N, 4)."""
    sides = [(box.top, box.bottom, box.left, box.right) for box in boxes]
    return np.array(sides, np.int32).reshape(-1, 4)


def _shares(box: Box, boxes: NDArray[np.int32]) -> Floats:
    """Return the part of the union of a box with each of others, int32 (N, 4), that both cover: float32 (N,)."""
    common, areas = overlaps(box, boxes), areas_of(boxes)
    return np.asarray(common / (areas + box.area - common), np.float32)


def areas_of(boxes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the pixels of each box, int32 (N, 4): int32 (N,)."""
    return np.asarray((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]), np.int32)


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
    dark, light = two_classes(grey)
    if not len(dark) or not len(light):
        return []
    low, high = median_of_sorted(dark), median_of_sorted(light)
    if high - low < MINIMUM_CONTRAST:
        return []
    found: list[Mark] = []
    for paper, full in ((high, low), (low, high)):
        ink = np.asarray(np.clip((grey - paper) / (full - paper) * 1.15 - 0.1, 0, 1), np.float32)
        inked = ink > 0.5
        rows, columns = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
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
    return np.asarray(picture @ ink_direction(np.ascontiguousarray(picture[::step, ::step])), np.float32)[:, :, None]


def searched_factor(picture: Floats, finest: int = _FINEST) -> int:
    """Return how many pixels of a picture one of the finest that is searched is wide; a thin one keeps a row."""
    rows, columns = (int(side) for side in picture.shape[:2])
    return min(-(-max(rows, columns) // finest), rows, columns)


def _levels(picture: Floats, finest: int) -> list[_Level]:
    factor = searched_factor(picture, finest)
    levels = [_Level(reduced(in_grey(picture)[:, :, 0], factor), factor)]
    while min(levels[-1].grey.shape) >= 2 * _COARSEST:
        levels.append(_Level(reduced(levels[-1].grey, 2), 2 * levels[-1].factor))
    return levels


def reduced(values: Floats, factor: int) -> Floats:
    """Return means of squares of pixels; what is left at the lower and right edges is dropped."""
    if factor == 1:
        return values
    rows, columns = (side // factor * factor for side in values.shape[:2])
    high = reduce(np.add, [values[row:rows:factor] for row in range(factor)])
    total = reduce(np.add, [high[:, column:columns:factor] for column in range(factor)])
    return np.asarray(total / np.float32(factor**2), np.float32)


def _without_strokes(grey: Floats) -> Floats:
    """Return a picture whose dark strokes are filled; beyond its edges it goes on as it is there."""
    rows, columns = grey.shape
    padded = np.pad(grey, _SQUARE - 1, "edge")
    # One row follows another in memory; windows that reach into the next row are left out at the end.
    filled, width = padded.ravel(), padded.shape[1]
    for extreme in (np.maximum, np.minimum):
        for stride in (width, 1):
            filled = _over_windows(filled, extreme, stride)
    return np.lib.stride_tricks.as_strided(filled, (rows, columns), (filled.itemsize * width, filled.itemsize))


def _over_windows(values: Floats, extreme: np.ufunc, stride: int) -> Floats:
    """Return the maximum or minimum of each window: as many values of a list as the square's side, a stride apart.

    From windows of 1, 2, 4, ... that are joined in pairs, which for short windows is faster than SciPy's filter.
    """
    length = 1
    while length < _SQUARE:
        step = min(length, _SQUARE - length)
        values, length = extreme(values[: -step * stride], values[step * stride :]), length + step
    return values


def _groups_in(level: _Level, number: int, is_dark: bool, most: int, any_width: bool) -> Iterator[_Group]:
    """Yield the groups of a level that are not too small, too wide or at two edges, by falling thresholds."""
    grey = level.grey if is_dark else -level.grey
    filled = _without_strokes(grey)
    contrast, paper = filled - grey, filled if is_dark else -filled
    least = max(MINIMUM_CONTRAST, _NOISE * median_of_sorted(np.sort(contrast[::2, ::2], None)))
    strongest = float(contrast.max())
    if strongest <= least:
        return
    shortest = _LEAST_COARSE if number else _LEAST
    thresholds = sorted({max(share * strongest, least) for share in _SHARES}, reverse=True)
    for labels, pieces in _pieces(contrast, thresholds, most):
        for group in _groups(pieces):
            box = _around([piece[1] for piece in group])
            if max(box.height, box.width) < shortest:
                continue
            wide = box.width > WIDEST * box.height or len(_edges(box, grey)) > 1
            if not wide or (any_width and len(group) == 1):
                yield _Group(number, box, labels, [piece[0] for piece in group], paper)


def _edges(box: Box, grey: Floats) -> str:
    """Return the edges of a level that a box touches, of `tblr`."""
    rows, columns = grey.shape
    touched = {"t": box.top == 0, "b": box.bottom == rows, "l": box.left == 0, "r": box.right == columns}
    return "".join(edge for edge, touches in touched.items() if touches)


def _pieces(
    contrast: Floats, thresholds: list[float], most: int
) -> Iterator[tuple[NDArray[np.int32], list[tuple[int, Box]]]]:
    """Yield, for each threshold, the connected pieces as labels, and the number and the box of the largest, by area."""
    # The lowest threshold's ink holds that of the others, and is little of most pictures.
    (top, bottom), (left, right) = (_extent(np.asarray((contrast > thresholds[-1]).any(axis))) for axis in (1, 0))
    inked = contrast[top:bottom, left:right] > np.array(thresholds, np.float32)[:, None, None]
    labels = np.zeros((len(thresholds), *contrast.shape), np.int32)
    labels[:, top:bottom, left:right], _ = scipy.ndimage.label(inked, _WITHIN)
    places = scipy.ndimage.find_objects(labels[:, top:bottom, left:right])
    for plane, own in enumerate(labels):
        pieces = [
            (number, Box(top + rows.start, top + rows.stop, left + columns.start, left + columns.stop))
            for number, (at, rows, columns) in enumerate(places, 1)
            if at.start == plane
        ]
        yield own, sorted(pieces, key=lambda piece: -piece[1].area)[:most]


def _extent(some: Bools) -> tuple[int, int]:
    """Return the first place that is set and the one behind the last; at least one is."""
    places = np.flatnonzero(some)
    return int(places[0]), int(places[-1]) + 1


def _around(boxes: list[Box]) -> Box:
    if len(boxes) == 1:
        return boxes[0]
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
    members: dict[int, list[tuple[int, Box]]] = {}
    for piece, first in zip(pieces, _first_of_group(_are_near([box for _, box in pieces])), strict=True):
        members.setdefault(first, []).append(piece)
    yield from (near for near in members.values() if len(near) > 1)


def _first_of_group(near: Bools) -> list[int]:
    """Return for each of N things the first that it is linked to by any number of links, bool (N, N).

    For the few pieces of most pictures SciPy's `connected_components` takes ten times as long.
    """
    first = np.arange(len(near))
    while True:
        least = np.minimum(first, np.where(near, first, len(near)).min(1))
        least = least[least]
        if (least == first).all():
            return [int(one) for one in first]
        first = least


def _are_near(boxes: list[Box]) -> Bools:
    """Return which boxes may belong to one digit, bool (N, N): those that are close, but none that holds another."""
    top, bottom, left, right = _sides_of(boxes).T
    above, below = np.maximum.outer(top, top), np.minimum.outer(bottom, bottom)
    before, behind = np.maximum.outer(left, left), np.minimum.outer(right, right)
    height, area = bottom - top, (bottom - top) * (right - left)
    close = np.maximum(above - below, before - behind) < np.maximum(2, _GAP * np.maximum.outer(height, height))
    common = np.maximum(below - above, 0) * np.maximum(behind - before, 0)
    return np.asarray(close & (common != area) & (common != area[:, None]))


def _mark(group: _Group, is_dark: bool, level: _Level) -> Mark:
    """Return the ink of a group."""
    box, grow = group.box, 2
    rows, columns = level.grey.shape
    outer = Box(
        max(0, box.top - grow), min(rows, box.bottom + grow), max(0, box.left - grow), min(columns, box.right + grow)
    )
    area = (slice(outer.top, outer.bottom), slice(outer.left, outer.right))
    contrast = group.paper[area] - level.grey[area]
    contrast = contrast if is_dark else -contrast
    part = group.labels[area]
    mask = part == group.numbers[0] if len(group.numbers) == 1 else np.isin(part, group.numbers)
    inside = np.sort(contrast[mask])
    full = median_of_sorted(inside[np.searchsorted(inside, np.float32(median_of_sorted(inside))) :])
    floor = 0.1 * full
    ink = np.where(grown(mask), np.clip((contrast - floor) / (full - floor), 0, 1), 0)
    edges, pieces = _edges(box, level.grey), len(group.numbers)
    return Mark(ink.astype(np.float32), outer.scaled(level.factor), full, is_dark, edges, pieces, level.factor)
