"""Lay out a digit as MNIST's makers did: scale it into 20x20 pixels with anti-aliasing and centre it in 28x28.

Strokes much thinner or thicker than MNIST's are first brought to a width that occurs in MNIST: a thin stroke would fade
when it is scaled down.
"""

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.digits.frame import BOX, centred

Floats = NDArray[np.float32]

THINNEST, THICKEST = 1.4, 4.8
"""Range of the stroke widths of 99 % of MNIST's digits, pixels of the 20x20 box."""

_FINE = 80
"""Longer side, in pixels, up to which a digit is enlarged before its strokes are widened or narrowed."""


def lay_out(ink: Floats) -> NDArray[np.uint8]:
    """Return a digit, float32 (rows, columns), 0 to 1, scaled and centred: uint8 (28, 28)."""
    ink = cropped(ink)
    unit = max(ink.shape) / BOX
    width = stroke_width(ink) / unit
    wanted = min(max(width, THINNEST), THICKEST)
    if wanted != width:
        ink = _with_width(ink, (wanted - width) * unit)
    return centred(_scaled(ink))


def stroke_width(ink: Floats) -> float:
    """Return the mean width of the strokes in pixels: twice the area over the length of the outline.

    The length of the outline is the total variation of the ink, which needs no threshold in soft edges.
    """
    padded = np.zeros((ink.shape[0] + 2, ink.shape[1] + 2), np.float32)
    padded[1:-1, 1:-1] = ink
    steps_y, steps_x = padded[1:, :-1] - padded[:-1, :-1], padded[:-1, 1:] - padded[:-1, :-1]
    outline = float(np.hypot(steps_y, steps_x).sum())
    return 2 * float(ink.sum()) / outline if outline else 0.0


def cropped(ink: Floats) -> Floats:
    """Return ink, float32 (rows, columns), without the rows and columns around it that hold none."""
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.1) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask, bool (rows, columns), with the pixels around it; SciPy's dilation takes ten times as long."""
    high = mask.copy()
    high[1:] |= mask[:-1]
    high[:-1] |= mask[1:]
    wide = high.copy()
    wide[:, 1:] |= high[:, :-1]
    wide[:, :-1] |= high[:, 1:]
    return wide


def _with_width(ink: Floats, change: float) -> Floats:
    """Return ink with strokes wider by `change` pixels, or narrower if it is negative, by moving their outline."""
    fine = max(1, round(_FINE / max(ink.shape)))
    margin = int(np.ceil(max(change, 0) / 2)) + 1
    ink = np.pad(ink, margin)
    size = (ink.shape[1] * fine, ink.shape[0] * fine)
    inside = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)) > 0.5
    # Only the side of the outline that it moves to is needed: beyond it, pixels become all ink or none.
    depth = (
        scipy.ndimage.distance_transform_edt(inside)
        if change < 0
        else 1 - scipy.ndimage.distance_transform_edt(~inside)
    )
    moved = np.clip(depth + change * fine / 2, 0, 1)
    return cropped(moved.astype(np.float32)) if moved.max() > 0.5 else ink


def _scaled(ink: Floats) -> Floats:
    rows, columns = (max(1, round(side * BOX / max(ink.shape))) for side in ink.shape)
    scaled = Image.fromarray(ink).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(np.clip(np.asarray(scaled), 0, 1), np.float32)
