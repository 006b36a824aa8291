"""Split ink into components: find connected pieces, drop specks, and group the pieces of one digit."""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from kilonet.data.digits.layout import grown

Floats = NDArray[np.float32]

_FAINT, _SURE = 0.2, 0.45
"""A pixel belongs to a piece above the first level; a piece needs a pixel above the second."""
_SPECK = 0.03
"""Pieces below this share of the largest piece's ink are dropped."""
_GAP = 0.08
"""Pieces closer than this share of the highest piece's height belong to one digit."""


@dataclass(frozen=True)
class Component:
    """The ink of one digit candidate: a group of connected pieces."""

    ink: Floats
    """float32 (rows, columns), 0 to 1: the component's box; ink of other components in it is set to 0."""
    top: int
    """First row of the box in the picture."""
    left: int
    """First column of the box in the picture."""
    pieces: int
    """The number of connected pieces."""

    @property
    def height(self) -> int:
        """The number of rows of the box."""
        return int(self.ink.shape[0])

    @property
    def width(self) -> int:
        """The number of columns of the box."""
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
class Components:
    """The components of a picture, without specks."""

    separate: tuple[Component, ...]
    """The components from left to right; pieces above or close to one another form one."""
    whole: Component | None
    """All pieces as one component; None if there are none."""


def find_components(ink: Floats) -> Components:
    """Return the components of ink, float32 (rows, columns), 0 to 1, as `find_foreground` returns it."""
    labels, pieces = _pieces(ink)
    separate = tuple(_component(ink, labels, group) for group in _groups(pieces))
    whole = _component(ink, labels, pieces) if len(separate) > 1 else next(iter(separate), None)
    return Components(separate, whole)


def _pieces(ink: Floats) -> tuple[NDArray[np.int32], list[_Piece]]:
    labels, count = scipy.ndimage.label(ink > _FAINT, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), ink.ravel(), count + 1)
    sure = np.bincount(labels[ink > _SURE], minlength=count + 1) > 0
    pieces = [
        _Piece(number, float(areas[number]), rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1)
        if sure[number]
    ]
    largest = max((piece.area for piece in pieces), default=0.0)
    return labels, [piece for piece in pieces if piece.area >= _SPECK * largest]


def _groups(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Group the pieces whose columns overlap or nearly touch, from left to right."""
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


def _component(ink: Floats, labels: NDArray[np.int32], pieces: list[_Piece]) -> Component:
    top, left = min(piece.top for piece in pieces), min(piece.left for piece in pieces)
    # The box is one pixel larger on every side, for the faint rim of the ink.
    box = (
        slice(max(0, top - 1), max(piece.bottom for piece in pieces) + 1),
        slice(max(0, left - 1), max(piece.right for piece in pieces) + 1),
    )
    own = grown(np.isin(labels[box], [piece.number for piece in pieces]))
    cut = np.where(own, ink[box], np.float32(0))
    return Component(cut, max(0, top - 1), max(0, left - 1), len(pieces))
