"""Separate the foreground of a picture, its ink, from the background, its paper.

The background is modelled as a smooth surface, at most quadratic, which is fitted to every channel so that ink hardly
moves it. The difference is projected on the colour direction in which it varies most; the sign is chosen so that ink,
which covers few pixels and lies far from the paper, is positive. So uneven light, dark paper and coloured ink need no
rules of their own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MINIMUM_CONTRAST = 10.0
"""The least difference between ink and paper, in levels of 255."""
MINIMUM_SIGNAL = 6.0
"""The least difference between ink and paper, in standard deviations of the paper's noise."""

_TERMS = (1, 3, 6)
"""Terms of a constant, a plane and a quadratic."""
_SAMPLES = 32
"""Most rows and columns that a surface is fitted to."""
_ROUNDS = 12
"""Iterations of a fit."""
_RICHER = 0.95
"""A surface of more terms must lower the sparsity measure to this share."""
_RESIDUAL_FLOOR = 2.0
"""Residuals count as this many levels at least."""


def find_foreground(picture: Floats) -> Floats | None:
    """Return the share of ink in each pixel.

    Args:
        picture: float32 (rows, columns, channels), 0 to 255, one or three channels.

    Returns:
        float32 (rows, columns), from 0 for paper to 1 for ink; None if nothing stands out from the paper.
    """
    signal = _signal(picture - fit_background(picture))
    noise = _noise(signal)
    _, ink = two_classes(signal)
    level = median_of_sorted(ink) if len(ink) else 0.0
    if level < max(MINIMUM_CONTRAST, MINIMUM_SIGNAL * noise):
        return None
    floor = min(max(3 * noise, 0.1 * level), 0.5 * level)
    return np.asarray(np.clip((signal - floor) / (level - floor), 0, 1), np.float32)


def ink_direction(colours: Floats) -> Floats:
    """Return the weights of the channels, float32 (channels,), by which the steps between pixels are largest.

    Source: S. Di Zenzo, "A note on the gradient of a multi-image", 1986.
    """
    channels = colours.shape[2]
    if channels == 1:
        return np.ones(1, np.float32)
    steps = np.concatenate([np.diff(colours, axis=axis).reshape(-1, channels) for axis in (0, 1)])
    direction = _principal(steps)
    # This scale gives a grey picture in three channels the contrast of its single channel.
    return np.asarray(direction * (1 if direction.sum() >= 0 else -1) / np.abs(direction).sum(), np.float32)


def _principal(rows: Floats) -> NDArray[np.float64]:
    """Return the direction, float64 (channels,), along which rows, float32 (N, channels), are longest."""
    # Of a copy, as NumPy computes the product of an array with its own transpose by a routine that is slow here.
    products = rows.T.copy() @ rows
    return np.asarray(np.linalg.eigh(products.astype(np.float64))[1][:, -1], np.float64)


def fit_background(picture: Floats) -> Floats:
    """Return the background of a picture without ink: a smooth surface for each channel, of the picture's shape.

    The surface is a constant, a plane or a quadratic, whichever leaves the sparsest residual, measured by the mean of
    its square roots. Each is fitted by least absolute differences: like a median, the fit stays on the paper as long as
    less than half of the picture is ink.
    """
    rows, columns, channels = picture.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    step_y, step_x = -(-rows // _SAMPLES), -(-columns // _SAMPLES)
    terms = np.stack([term.ravel() for term in np.broadcast_arrays(*_quadratic(y[::step_y], x[:, ::step_x]))], axis=1)
    values = picture[::step_y, ::step_x].reshape(-1, channels).astype(np.float64)
    fits = [_least_absolute(terms[:, :count], values) for count in _TERMS]
    best = fits[0]
    for fit in fits[1:]:
        best = fit if fit.sparsity < _RICHER * best.sparsity else best
    paper = np.zeros(picture.shape, np.float32)
    for term, factors in zip(_quadratic(y, x), best.factors, strict=False):
        paper += term.astype(np.float32)[:, :, None] * factors.astype(np.float32)
    return paper


@dataclass(frozen=True)
class _Fit:
    factors: NDArray[np.float64]
    sparsity: float


def _least_absolute(terms: NDArray[np.float64], values: NDArray[np.float64]) -> _Fit:
    """Fit values, (N, channels), by terms, (N, terms), by iteratively reweighted least squares."""
    weights = np.ones(len(values))
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, None]
        # Few pixels, or pixels in one row, leave some terms open: take the smallest solution.
        factors = np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=1e-9)[0]
        residual = values - terms @ factors
        distance = np.maximum(np.sqrt(np.einsum("ij,ij->i", residual, residual)), _RESIDUAL_FLOOR)
        weights = 1 / distance
    return _Fit(np.asarray(factors, np.float64), float(np.sqrt(distance).mean()))


def _quadratic(y: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the terms 1, x, y, xx, xy, yy for a column of y and a row of x, both from -1 to 1, to be broadcast."""
    return np.ones((1, 1)), x, y, x * x, x * y, y * y


def _signal(difference: Floats) -> Floats:
    """Project a difference, (rows, columns, channels), on its principal colour, ink positive: (rows, columns)."""
    flat = difference.reshape(-1, difference.shape[2])
    direction = _principal(flat).astype(np.float32)
    signal = flat @ direction
    sign = np.float32(1 if (signal * signal * signal).sum(dtype=np.float64) >= 0 else -1)
    # This scale gives a grey picture in three channels the contrast of its single channel.
    levels = sign * signal / np.abs(direction).sum()
    return np.asarray(levels.reshape(difference.shape[:2]), np.float32)


def _noise(signal: Floats) -> float:
    """Estimate the standard deviation of the paper by the median of absolute values, which ink hardly moves."""
    return 1.4826 * median_of_sorted(np.sort(np.abs(signal), None))


def median_of_sorted(levels: Floats) -> float:
    """Return the median of sorted levels; NumPy's own takes three times as long as sorting and this."""
    return float((levels[(len(levels) - 1) // 2] + levels[len(levels) // 2]) / 2)


def two_classes(values: Floats) -> tuple[Floats, Floats]:
    """Return values, sorted, in two classes, the lower first, so that the variance between them is the greatest.

    Source: N. Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    levels = np.sort(values, None)
    # As NumPy's histogram counts, but that takes three times as long as sorting.
    edges = np.histogram_bin_edges(levels[[0, -1]], 256)
    counts = np.diff(np.searchsorted(levels, edges[:-1]), append=len(levels))
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mass = np.cumsum(counts * centres)
    mean_below = mass[:-1] / np.maximum(below[:-1], 1)
    mean_above = (mass[-1] - mass[:-1]) / np.maximum(above[1:], 1)
    between = below[:-1] * above[1:].astype(np.float64) * (mean_below - mean_above) ** 2
    first = int(np.searchsorted(levels, edges[1 + between.argmax()]))
    return levels[:first], levels[first:]
