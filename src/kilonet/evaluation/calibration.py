"""Fitting a model's confidence on images that it was not trained on, and "none of these" on images of no class."""

import math
from itertools import product

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from kilonet.data.datasets import Images
from kilonet.evaluation.negatives import Negatives
from kilonet.evaluation.scoring import correct_predictions
from kilonet.models.calibration import GREATEST_TEMPERATURE, LEAST_TEMPERATURE, Calibration, check_finite, energies
from kilonet.models.model import Classifier
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Fraction, Schema

LEAST_IMAGES = 20
"""The fewest images that a calibration is fitted on."""
ENOUGH_IMAGES = 500
"""From so many images on, `STRANGE_SHARE` of them is at least one image, and the temperature needs no smoothing."""
SURE_SHARE = 0.999
"""The share of right predictions among the held-out images that are not marked uncertain."""
STRANGE_SHARE = 0.002
"""The share of the held-out images whose energy is below the bound."""
KEPT_SHARE = 0.98
"""The least share of the rightly classified held-out images that are not answered with "none of these"."""
_MOST_SURE = 0.9999
"""The highest confidence threshold for "none of these": closer to one, probabilities are only rounding."""
_TRIED = 40
"""How many numbers of lost images are tried for each of the two thresholds."""


def least_share(images: int) -> float:
    """Return the share of the training images that keeps `LEAST_IMAGES` aside, in hundredths; over 1 for too few."""
    return math.ceil(100 * LEAST_IMAGES / images) / 100


class CalibrationReport(Schema):
    """The images that a calibration was fitted on, and how well "none of these" tells them from negatives."""

    images: PositiveInt
    """The labelled images that it was fitted on."""
    kept: Fraction | None = None
    """The share of those classified rightly that are answered; None without negatives."""
    negatives: NonNegativeInt = 0
    """The images of none of the classes."""
    negatives_scored: NonNegativeInt = 0
    """Those of them that the thresholds were not chosen on."""
    rejected: Fraction | None = None
    """The share of the latter that are answered with "none of these"; None without negatives."""
    skipped: NonNegativeInt = 0
    """The files of the negatives that could not be read."""

    def __str__(self) -> str:
        if self.kept is None or self.rejected is None:
            return f"calibrated on {self.images:,} images that were not trained on"
        return (
            f"'none of these': keeps {100 * self.kept:.1f} % of the rightly classified among {self.images:,} images, "
            f"rejects {100 * self.rejected:.1f} % of {self.negatives_scored:,} negatives that it was not chosen on"
        )


def calibrate_on(
    model: Classifier, images: Images, negatives: Negatives | None = None
) -> tuple[Calibration, CalibrationReport]:
    """Fit the calibration of a model.

    Args:
        model: the model, whose own calibration is not used.
        images: labelled images that it was not trained on.
        negatives: images of none of its classes, for "none of these".

    Raises:
        KilonetError: fewer images than `LEAST_IMAGES`, or the network computes NaN or infinity.
    """
    logits: NDArray[np.float32] = model.logits(images.pixels).numpy()
    labels: NDArray[np.int64] = images.labels.numpy()
    calibration = fit_calibration(logits, labels)
    if negatives is None:
        return calibration, CalibrationReport(images=len(images))
    strangers = model.logits(negatives.pixels).numpy()
    # Those without a digit never reach the network: half of them count for the report, as half of the others do.
    choosing, proving = strangers[::2], strangers[1::2]
    calibration = fit_rejection(calibration, logits, labels, choosing)
    answered = ~calibration.uncertain(_classified_rightly(logits, labels))
    without_digit = negatives.without_digit // 2
    scored = len(proving) + without_digit
    return calibration, CalibrationReport(
        images=len(images),
        kept=float(answered.mean()),
        negatives=len(strangers) + negatives.without_digit,
        negatives_scored=scored,
        rejected=(int(calibration.uncertain(proving).sum()) + without_digit) / scored,
        skipped=len(negatives.skipped),
    )


def fit_calibration(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """Fit temperature, confidence threshold and energy bound on held-out images.

    With fewer images than `ENOUGH_IMAGES` the bound is the least energy, and the labels are smoothed by one image of
    every wrong class together, so that a few images that are all right do not make the model sure of everything.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).

    Raises:
        KilonetError: too few images, or a logit that is NaN or infinite.

    Source of the smoothing: J. Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    if len(labels) < LEAST_IMAGES:
        raise KilonetError(
            f"{len(labels)} images are too few to calibrate on; at least {LEAST_IMAGES} must be kept out of training"
        )
    check_finite(logits)
    few = len(labels) < ENOUGH_IMAGES
    temperature = fit_temperature(logits, labels, 1 / (len(labels) + 2) if few else 0.0)
    probabilities = Calibration(temperature=temperature).probabilities(logits)
    return Calibration(
        temperature=temperature,
        sure_from=_sure_from(probabilities.max(1), correct_predictions(probabilities, labels)),
        energy_from=float(np.quantile(energies(logits), 0.0 if few else STRANGE_SHARE)),
    )


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], smoothing: float = 0.0) -> float:
    """Return the temperature with the least cross-entropy, within the bounds of a calibration's.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).
        smoothing: the share of the target that is spread evenly over the classes.

    Source: C. Guo et al., "On calibration of modern neural networks", 2017. The cross-entropy is convex in the inverse
    of the temperature, so its derivative has at most one root.
    """
    rows = logits.astype(np.float64)
    labelled = rows[np.arange(len(rows)), labels].mean()
    if smoothing:
        labelled += smoothing * (rows.mean() - labelled)
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


def fit_rejection(
    calibration: Calibration,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    negatives: NDArray[np.float32],
) -> Calibration:
    """Return a calibration whose thresholds on energy and confidence tell images of the classes from others.

    At least `KEPT_SHARE` of the rightly classified images are kept, and as many negatives as possible are rejected; of
    equal thresholds those that keep more images.

    Args:
        calibration: gives the temperature.
        logits: float32 (N, classes), of held-out images.
        labels: int64 (N,).
        negatives: float32 (M, classes), of images of none of the classes.

    Raises:
        KilonetError: a logit is NaN or infinite.
    """
    energy, confidence = _scores(calibration, _classified_rightly(logits, labels))
    other_energy, other_confidence = _scores(calibration, negatives)
    most_lost = int(len(energy) * (1 - KEPT_SHARE) + 1e-9)
    numbers = sorted({int(number) for number in np.linspace(0, most_lost, _TRIED)})
    by_energy, by_confidence = np.sort(energy), np.sort(confidence)
    best: tuple[int, int] | None = None
    thresholds = (0.0, 0.0)
    for lost, unsure in product(numbers, numbers):
        bounds = float(by_energy[lost]), min(float(by_confidence[unsure]), _MOST_SURE)
        kept = int(((energy >= bounds[0]) & (confidence >= bounds[1])).sum())
        if len(energy) - kept > most_lost:
            continue
        taken = int(((other_energy >= bounds[0]) & (other_confidence >= bounds[1])).sum())
        if best is None or (-taken, kept) > best:
            best, thresholds = (-taken, kept), bounds
    energy_from, sure_from = thresholds
    return Calibration(temperature=calibration.temperature, sure_from=sure_from, energy_from=energy_from, rejects=True)


def _classified_rightly(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits of the images that are classified rightly, or all of them if none is."""
    right = np.asarray(logits.argmax(1) == labels)
    return logits[right] if right.any() else logits


def _scores(calibration: Calibration, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the energy and the confidence of each row of logits."""
    return energies(logits), calibration.probabilities(logits).max(1)


def _sure_from(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the lowest confidence at or above which `SURE_SHARE` of the predictions are right, 1 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= SURE_SHARE)
    return float(confidence[order[enough[-1]]]) if len(enough) else 1.0
