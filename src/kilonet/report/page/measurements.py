"""The measurements that a report makes: every image scored, the mistakes, the reliability of probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilonet.evaluation.scoring import Evaluation, correct_predictions, evaluation_of
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.calibration import UNFITTED
from kilonet.report.subject import Subject
from kilonet.utils.errors import KilonetError

WORST = 10
MOST_MISTAKES = 60
BINS = 15


@dataclass(frozen=True)
class ScoredImage:
    """An image with the network's probabilities for it."""

    index: int
    label: int
    predicted: int
    top_classes: tuple[tuple[int, float], ...]
    """The three most probable classes, each with its probability."""
    label_probability: float


@dataclass(frozen=True)
class Bin:
    """The answers whose probability lies between two bounds, `low` excluded."""

    low: float
    high: float
    images: int
    correct: int
    confidence: float
    """Mean probability; NaN for an empty bin."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of right answers."""
        return wilson_interval(self.correct, self.images)


@dataclass(frozen=True)
class Reliability:
    """How well probabilities agree with the share of right answers."""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error, a fraction."""


@dataclass(frozen=True)
class Measurements:
    """The scores of a subject's images."""

    evaluation: Evaluation
    worst: tuple[ScoredImage, ...]
    """The images whose label had the lowest probability, lowest first."""
    mistakes: tuple[ScoredImage, ...]
    """Wrong answers that are not among the worst, at most MOST_MISTAKES."""
    wrong: int
    """The number of all wrong answers."""
    reliability: Reliability
    """Of the probabilities that the model gives, which are calibrated where it has a calibration."""
    uncalibrated: Reliability | None
    """The same without the calibration; None for a model that has none."""
    closeup: ScoredImage
    """The image that is looked at closely."""


def measure(subject: Subject) -> Measurements:
    """Score a subject's images.

    Raises:
        KilonetError: the corruptions were measured on another model.
    """
    logits = subject.model.logits(subject.images.pixels)
    labels = subject.images.labels.numpy()
    calibration = subject.model.metadata.calibration
    probabilities = (calibration or UNFITTED).probabilities(logits.numpy())
    order = np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")
    wrong = ~correct_predictions(probabilities, labels)
    others = [index for index in order[WORST:].tolist() if wrong[index]]
    evaluation = evaluation_of(logits, subject.images, subject.model.metadata)
    _check_robustness(subject, evaluation)
    return Measurements(
        evaluation=evaluation,
        worst=tuple(_scored_image(index, probabilities, labels) for index in order[:WORST].tolist()),
        mistakes=tuple(_scored_image(index, probabilities, labels) for index in others[:MOST_MISTAKES]),
        wrong=int(wrong.sum()),
        reliability=reliability_of(probabilities, labels),
        uncalibrated=reliability_of(UNFITTED.probabilities(logits.numpy()), labels) if calibration else None,
        closeup=_scored_image(subject.image_index, probabilities, labels),
    )


def _check_robustness(subject: Subject, evaluation: Evaluation) -> None:
    found = subject.robustness
    if found and round(found.clean * found.images) != evaluation.correct:
        clean, own = (f"{100 * share:.2f} %" for share in (found.clean, evaluation.accuracy))
        raise KilonetError(
            f"the corruptions were measured on a model with {clean} on clean images, but this one has {own}"
        )


def _scored_image(index: int, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> ScoredImage:
    row, label = probabilities[index], int(labels[index])
    best = np.argsort(-row, kind="stable")[:3].tolist()
    return ScoredImage(index, label, best[0], tuple((name, float(row[name])) for name in best), float(row[label]))


def reliability_of(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Reliability:
    """Sort answers into bins by their probability.

    Args:
        probabilities: float32 (N, classes).
        labels: int64 (N,).

    Source: C. Guo et al., "On calibration of modern neural networks", 2017: bins of one width, and the expected
    calibration error.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right: NDArray[np.bool_] = correct_predictions(probabilities, labels)
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = tuple(_bin(number, confidence[places == number], right[places == number]) for number in range(BINS))
    gaps = [abs(part.correct - part.confidence * part.images) for part in bins if part.images]
    return Reliability(bins, sum(gaps) / len(labels))


def _bin(number: int, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Bin:
    mean = float(confidence.mean()) if len(confidence) else float("nan")
    return Bin(number / BINS, (number + 1) / BINS, len(right), int(right.sum()), mean)
