"""Split ink that was read as a row of digits into them, by the cuts whose pieces look most like those digits.

Seams from the top to the bottom of the ink, each of which crosses as little ink as can be, are the possible cuts; the
pieces between any two of them are laid out and checked, and the chain of pieces is taken in which the digits that were
read are most probable.

Source of the search: R. Casey, E. Lecolinet, "A survey of methods and strategies in character segmentation", 1996
(recognition-based segmentation); of the seams: S. Avidan, A. Shamir, "Seam carving", 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.digits.check import digit_probabilities
from kilonet.data.digits.layout import cropped, lay_out

Floats = NDArray[np.float32]

_HEIGHT = 40
"""Rows that the ink is scaled to before it is cut."""
_STEP = 2
"""Columns between the places at which seams begin."""
_SWING = 8
"""The most columns that a seam leaves its place by."""
_SEAMS_A_DIGIT = 8
"""The seams that are tried for each digit, those that cross the least ink."""
_MOST_SEAMS = 96
"""The most seams of a row, so that no picture takes many seconds."""
_SLOPE = 0.02
"""The cost of a seam's step to the side, in pixels of ink."""
_WIDEST = 1.35
"""The greatest width of a digit, as a share of the height of the row."""
_LOWEST = 0.5
"""The least height of a digit, likewise."""
_SHARED = (0, 3)
"""Columns beyond a cut that may belong to both of its digits, which is tried either way."""
_CUT = 0.12
"""The cost of a pixel of ink that is cut, in units of the logarithm of a probability."""


def split_digits(ink: Floats, digits: Sequence[int]) -> list[Floats]:
    """Split ink, float32 (rows, columns), 0 to 1, into pieces that look like these digits, from left to right.

    Returns an empty list if there are no such cuts.
    """
    row = _scaled(ink)
    seams = _seams(row, min(_SEAMS_A_DIGIT * len(digits), _MOST_SEAMS))
    ends = [np.full(len(row), 0), *seams, np.full(len(row), row.shape[1])]
    pieces = _pieces(row, ends)
    crossed = [0.0, *(_crossed(row, seam) for seam in seams), 0.0]
    chains: dict[int, _Chain] = {0: _Chain(0.0, ())}
    for digit in digits:
        longer: dict[int, _Chain] = {}
        for (start, end), piece in pieces.items():
            if start in chains:
                cost = chains[start].cost + piece.cost(digit) + _CUT * crossed[end]
                if end not in longer or cost < longer[end].cost:
                    longer[end] = _Chain(cost, (*chains[start].inks, piece.ink(digit)))
        chains = longer
    whole = chains.get(len(ends) - 1)
    return list(whole.inks) if whole else []


@dataclass(frozen=True)
class _Chain:
    """The pieces of the first digits."""

    cost: float
    inks: tuple[Floats, ...]


@dataclass(frozen=True, eq=False)
class _Piece:
    """The ink between two cuts, in each of the ways to share what lies near them."""

    inks: list[Floats]
    likely: list[Floats]
    """float32 (10,): the probability of each digit."""

    def _way(self, digit: int) -> int:
        return max(range(len(self.inks)), key=lambda way: self.likely[way][digit])

    def ink(self, digit: int) -> Floats:
        """Return the ink that looks most like a digit."""
        return self.inks[self._way(digit)]

    def cost(self, digit: int) -> float:
        """Return minus the logarithm of the probability of a digit."""
        return -float(np.log(max(self.likely[self._way(digit)][digit], 1e-6)))


def _pieces(row: Floats, ends: list[NDArray[np.int64]]) -> dict[tuple[int, int], _Piece]:
    """Return what may be a digit between any two cuts, by the numbers of the cuts."""
    inks = [
        (start, end, part)
        for start in range(len(ends))
        for end in range(start + 1, len(ends))
        for part in (_between(row, ends[start] - shared, ends[end] + shared) for shared in _SHARED)
        if _may_be_digit(part)
    ]
    scores = digit_probabilities(np.array([lay_out(part) for _, _, part in inks], np.uint8))
    found: dict[tuple[int, int], _Piece] = {}
    for (start, end, part), likely in zip(inks, scores, strict=True):
        piece = found.setdefault((start, end), _Piece([], []))
        piece.inks.append(part)
        piece.likely.append(likely)
    return found


def _between(row: Floats, left: NDArray[np.int64], right: NDArray[np.int64]) -> Floats:
    places = np.arange(row.shape[1])
    return np.where((places >= left[:, None]) & (places < right[:, None]), row, np.float32(0))


def _may_be_digit(part: Floats) -> bool:
    columns, rows = (np.flatnonzero(part.max(axis) > 0.3) for axis in (0, 1))
    if not len(columns):
        return False
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return bool(width <= _WIDEST * len(part) and height >= _LOWEST * len(part))


def _scaled(ink: Floats) -> Floats:
    cut = cropped(ink)
    size = (max(2, round(cut.shape[1] * _HEIGHT / cut.shape[0])), _HEIGHT)
    return np.asarray(
        np.clip(np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC)), 0, 1), np.float32
    )


def _crossed(row: Floats, seam: NDArray[np.int64]) -> float:
    return float(row[np.arange(len(row)), np.minimum(seam, row.shape[1] - 1)].sum())


def _seams(row: Floats, most: int) -> list[NDArray[np.int64]]:
    """Return the cheapest seams, int64 (rows,) columns each, from left to right."""
    places = np.arange(2, row.shape[1] - 2, _STEP)
    found = {seam.tobytes(): (_crossed(row, seam), seam) for seam in _cheapest_paths(row, places)}
    cheapest = sorted(found.values(), key=lambda one: one[0])[:most]
    return sorted((seam for _, seam in cheapest), key=lambda seam: float(seam.mean()))


def _cheapest_paths(row: Floats, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the path within reach of each place that crosses the least ink: int64 (places, rows) columns."""
    # Bands around the places, (rows, places, columns); all paths are found at once.
    ink = np.pad(row, ((0, 0), (_SWING, _SWING)), constant_values=np.inf)
    bands = ink[:, places[:, None] + np.arange(2 * _SWING + 1)]
    total = bands[0].astype(np.float64)
    turns = np.zeros(bands.shape, np.int64)
    ways = np.full((3, *total.shape), np.inf)
    for number in range(1, len(bands)):
        ways[0, :, 1:] = total[:, :-1] + _SLOPE
        ways[1] = total
        ways[2, :, :-1] = total[:, 1:] + _SLOPE
        turns[number] = ways.argmin(0) - 1
        total = ways.min(0) + bands[number]
    path = total.argmin(1)
    paths = np.zeros((len(places), len(bands)), np.int64)
    for number in range(len(bands) - 1, -1, -1):
        paths[:, number] = path
        path = path + turns[number, np.arange(len(places)), path]
    return paths + places[:, None] - _SWING
