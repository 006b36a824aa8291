"""Fitting how sure a model may be, on images that it was not trained on."""

import numpy as np
from numpy.typing import NDArray

from kilonet.evaluation.scoring import correct_predictions
from kilonet.models.calibration import GREATEST_TEMPERATURE, LEAST_TEMPERATURE, Calibration, energies
from kilonet.utils.errors import KilonetError

SURE_SHARE = 0.999
"""Of the held-out answers that are not marked uncertain, this share is right."""
STRANGE_SHARE = 0.002
"""This share of the held-out images is as unlike the rest as what is refused."""

_HALVINGS = 60


def fit_calibration(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """Fit all dials on held-out images: float32 (N, classes) and int64 (N,).

    Raises:
        KilonetError: too few images.
    """
    least = round(1 / STRANGE_SHARE)
    if len(labels) < least:
        raise KilonetError(f"{len(labels)} held-out images are too few to calibrate on; it takes {least}")
    temperature = fit_temperature(logits, labels)
    probabilities = Calibration(temperature=temperature).probabilities(logits)
    return Calibration(
        temperature=temperature,
        sure_from=_sure_from(probabilities.max(1), correct_predictions(probabilities, labels)),
        energy_from=float(np.quantile(energies(logits), STRANGE_SHARE)),
    )


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the least cross-entropy.

    Source: C. Guo et al., "On calibration of modern neural networks", 2017. The cross-entropy is convex in the inverse
    of the temperature, so the root of its derivative is found by halving.
    """
    rows = logits.astype(np.float64)
    labelled = rows[np.arange(len(rows)), labels].mean()
    low, high = 1 / GREATEST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    for _ in range(_HALVINGS):
        inverse = (low + high) / 2
        powers = np.exp(inverse * (rows - rows.max(1, keepdims=True)))
        slope = ((powers * rows).sum(1) / powers.sum(1)).mean() - labelled
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return float(2 / (low + high))


def _sure_from(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the lowest confidence from which upwards the wanted share of answers is right, 1 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= SURE_SHARE)
    return float(confidence[order[enough[-1]]]) if len(enough) else 1.0
