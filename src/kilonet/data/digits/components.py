"""From ink to marks: connected pieces, specks dropped, pieces of one digit put together, digits in reading order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

_FAINT, _SURE = 0.2, 0.45
_SPECK = 0.03
_GAP = 0.08


@dataclass(frozen=True)
class Mark:
    """One digit's ink, or what may be one."""

    ink: Floats
    """float32 (rows, columns), 0 to 1: the mark's box alone, without what else may reach into it."""
    top: int
    left: int
    pieces: int
    """Of how many connected pieces it is."""

    @property
    def height(self) -> int:
        """Rows of the box."""
        return int(self.ink.shape[0])

    @property
    def width(self) -> int:
        """Columns of the box."""
        return int(self.ink.shape[1])


@dataclass(frozen=True)
class _Piece:
    number: int
    area: float
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Marks:
    """All ink but the specks, taken apart and together."""

    apart: tuple[Mark, ...]
    """From left to right; pieces above or close to one another are one mark."""
    whole: Mark | None
    """All of them as one mark; None without any."""


def find_marks(ink: Floats) -> Marks:
    """Split ink, float32 (rows, columns), 0 to 1, see `kilonet.data.digits.foreground`, into marks."""
    labels, pieces = _pieces(ink)
    apart = tuple(_mark(ink, labels, group) for group in _groups(pieces))
    return Marks(apart, _mark(ink, labels, pieces) if len(apart) > 1 else next(iter(apart), None))


def _pieces(ink: Floats) -> tuple[NDArray[np.int32], list[_Piece]]:
    labels, count = ndimage.label(ink > _FAINT, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), ink.ravel(), count + 1)
    sure = np.bincount(labels[ink > _SURE], minlength=count + 1) > 0
    pieces = [
        _Piece(number, float(areas[number]), rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1)
        if sure[number]
    ]
    largest = max((piece.area for piece in pieces), default=0.0)
    return labels, [piece for piece in pieces if piece.area >= _SPECK * largest]


def _groups(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Put pieces together whose columns overlap or nearly touch, from left to right."""
    height = max((piece.bottom - piece.top for piece in pieces), default=0)
    groups: list[list[_Piece]] = []
    right = 0
    for piece in sorted(pieces, key=lambda piece: piece.left):
        if groups and piece.left - right < _GAP * height:
            groups[-1].append(piece)
            right = max(right, piece.right)
        else:
            groups.append([piece])
            right = piece.right
    return groups


def _mark(ink: Floats, labels: NDArray[np.int32], pieces: list[_Piece]) -> Mark:
    top, left = min(piece.top for piece in pieces), min(piece.left for piece in pieces)
    # One pixel more on every side: the faint rim of the ink.
    box = (
        slice(max(0, top - 1), max(piece.bottom for piece in pieces) + 1),
        slice(max(0, left - 1), max(piece.right for piece in pieces) + 1),
    )
    own = ndimage.binary_dilation(np.isin(labels[box], [piece.number for piece in pieces]), np.ones((3, 3)))
    cut = np.where(own, ink[box], np.float32(0))
    return Mark(cut, max(0, top - 1), max(0, left - 1), len(pieces))
