"""Fitting a model's confidence on images that it was not trained on."""

import numpy as np
import scipy
from numpy.typing import NDArray

from kilonet.evaluation.scoring import correct_predictions
from kilonet.models.calibration import GREATEST_TEMPERATURE, LEAST_TEMPERATURE, Calibration, check_finite, energies
from kilonet.utils.errors import KilonetError

SURE_SHARE = 0.999
"""The share of right predictions among the held-out images that are not marked uncertain."""
STRANGE_SHARE = 0.002
"""The share of the held-out images whose energy is below the bound."""


def fit_calibration(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """Fit temperature, confidence threshold and energy bound on held-out images.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).

    Raises:
        KilonetError: too few images, or a logit that is NaN or infinite.
    """
    least = round(1 / STRANGE_SHARE)
    if len(labels) < least:
        raise KilonetError(f"{len(labels)} held-out images are too few to calibrate on; at least {least} are needed")
    check_finite(logits)
    temperature = fit_temperature(logits, labels)
    probabilities = Calibration(temperature=temperature).probabilities(logits)
    return Calibration(
        temperature=temperature,
        sure_from=_sure_from(probabilities.max(1), correct_predictions(probabilities, labels)),
        energy_from=float(np.quantile(energies(logits), STRANGE_SHARE)),
    )


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the least cross-entropy, within the bounds of a calibration's.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).

    Source: C. Guo et al., "On calibration of modern neural networks", 2017. The cross-entropy is convex in the inverse
    of the temperature, so its derivative has at most one root.
    """
    rows = logits.astype(np.float64)
    labelled = rows[np.arange(len(rows)), labels].mean()
    below_highest = rows - rows.max(1, keepdims=True)

    def slope(inverse: float) -> float:
        """Return the derivative of the mean cross-entropy by the inverse of the temperature."""
        powers = np.exp(inverse * below_highest)
        return float(((powers * rows).sum(1) / powers.sum(1)).mean() - labelled)

    low, high = 1 / GREATEST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    if slope(low) >= 0:
        return GREATEST_TEMPERATURE
    if slope(high) <= 0:
        return LEAST_TEMPERATURE
    return 1 / float(scipy.optimize.brentq(slope, low, high, xtol=1e-14))


def _sure_from(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the lowest confidence at or above which `SURE_SHARE` of the predictions are right, 1 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= SURE_SHARE)
    return float(confidence[order[enough[-1]]]) if len(enough) else 1.0
