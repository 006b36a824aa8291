"""Where MNIST's makers put a digit: 20 pixels long, its centre of mass in the middle of 28x28.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The middle is the corner between the
four middle pixels as they counted them, position 14 counted from 0: so their images have it, to half a pixel.
"""

import numpy as np
from numpy.typing import NDArray

BOX = 20
"""Rows and columns that a digit is scaled into."""
SIDE = 28
"""Rows and columns of the image."""

_DARK = 25
"""Levels of 255 up to which a pixel is background; JPEG files need some."""
_INK = np.where(np.arange(256) > _DARK, np.arange(256), 0).astype(np.float32)
"""Of every level."""
_MOMENTS = np.stack([np.ones(SIDE), np.arange(SIDE)]).astype(np.float32)
"""What sums a column of pixels, and sums it weighted by the rows."""


def is_laid_out(grey: NDArray[np.uint8]) -> bool:
    """Tell whether an image, uint8 (rows, columns), is as MNIST's are, light ink on black."""
    if grey.shape != (SIDE, SIDE):
        return False
    # The service asks this of every image: two products take a third of the time of masks, sums and their like. All
    # are whole numbers below 2 ** 24, so float32 is exact.
    ink = _INK[grey]
    columns, rows = _MOMENTS @ ink, _MOMENTS @ ink.T
    total = float(rows[0].sum())
    if total == 0:
        return False
    longest = max(_length(columns[0]), _length(rows[0]))
    middles = [float(moments[1].sum()) / total for moments in (columns, rows)]
    return abs(longest - BOX) <= 1 and all(abs(middle - SIDE / 2) <= 1 for middle in middles)


def _length(sums: NDArray[np.float32]) -> int:
    """Pixels from the first to the last that are not zero."""
    inked = sums.nonzero()[0]
    return int(inked[-1] - inked[0]) + 1


def centred(ink: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Place scaled ink, float32 at most (20, 20), 0 to 1, by whole pixels: uint8 (28, 28)."""
    image = np.zeros((SIDE, SIDE), np.float32)
    top, left = (
        min(max(round(SIDE / 2 - mass), 0), SIDE - length)
        for mass, length in zip(_centre_of_mass(ink), ink.shape, strict=True)
    )
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return (255 * image).round().astype(np.uint8)


def _centre_of_mass(ink: NDArray[np.generic]) -> tuple[float, float]:
    """Row and column, pixels counted from 0."""
    values = ink.astype(np.float64)
    total = values.sum()
    return float(values.sum(1) @ np.arange(ink.shape[0]) / total), float(
        values.sum(0) @ np.arange(ink.shape[1]) / total
    )
