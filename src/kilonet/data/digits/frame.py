"""MNIST's frame: a digit is 20 pixels long, and its centre of mass lies in the middle of 28x28 pixels.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The middle is position 14 counted
from 0, as in their images, to half a pixel.

This module needs NumPy alone: every model that is loaded imports it, and SciPy would take a fifth of a second more.
"""

import numpy as np
from numpy.typing import NDArray

BOX = 20
"""Rows and columns of the box that a digit is scaled into."""
SIDE = 28
"""Rows and columns of the image."""

_DARK = 25
"""The highest grey level of the background; JPEG files do not keep it at 0."""
_INK = np.where(np.arange(256) > _DARK, np.arange(256), 0).astype(np.float32)
"""The ink of each grey level, float32 (256,)."""
_MOMENTS = np.stack([np.ones(SIDE), np.arange(SIDE)]).astype(np.float32)
"""Weights of the sum of a column of pixels and of its first moment, float32 (2, 28)."""


def is_laid_out(grey: NDArray[np.uint8]) -> bool:
    """Return whether an image, uint8 (rows, columns), is laid out as MNIST's are: light ink on black, in the middle."""
    if grey.shape != (SIDE, SIDE):
        return False
    # The service calls this for every image: two matrix products take a third of the time of masks and sums. All
    # values are whole numbers below 2 ** 24, so float32 is exact.
    ink = _INK[grey]
    columns, rows = _MOMENTS @ ink, _MOMENTS @ ink.T
    total = float(rows[0].sum())
    if total == 0:
        return False
    longest = max(_length(columns[0]), _length(rows[0]))
    middles = [float(moments[1].sum()) / total for moments in (columns, rows)]
    return abs(longest - BOX) <= 1 and all(abs(middle - SIDE / 2) <= 1 for middle in middles)


def _length(sums: NDArray[np.float32]) -> int:
    """Return the number of pixels from the first to the last that is not zero."""
    inked = sums.nonzero()[0]
    return int(inked[-1] - inked[0]) + 1


def centred(ink: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return ink, float32 of at most (20, 20), 0 to 1, centred to a whole pixel: uint8 (28, 28)."""
    image = np.zeros((SIDE, SIDE), np.float32)
    top, left = (
        min(max(round(SIDE / 2 - mass), 0), SIDE - length)
        for mass, length in zip(_centre_of_mass(ink), ink.shape, strict=True)
    )
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return (255 * image).round().astype(np.uint8)


def _centre_of_mass(ink: NDArray[np.generic]) -> tuple[float, float]:
    """Return the row and the column of the centre of mass, pixels counted from 0."""
    values = ink.astype(np.float64)
    total = values.sum()
    return float(values.sum(1) @ np.arange(ink.shape[0]) / total), float(
        values.sum(0) @ np.arange(ink.shape[1]) / total
    )
