"""What a report measures anew: every image scored, the mistakes, and how true the probabilities are."""

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
class Judged:
    """An image and what the network thought of it."""

    index: int
    label: int
    predicted: int
    thoughts: tuple[tuple[int, float], ...]
    """The three most probable classes, each with its probability."""
    of_label: float
    """The label's probability."""


@dataclass(frozen=True)
class Bin:
    """The answers whose probability lies between two bounds."""

    low: float
    high: float
    images: int
    correct: int
    confidence: float
    """Mean probability; NaN for an empty bin."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share that is right."""
        return wilson_interval(self.correct, self.images)


@dataclass(frozen=True)
class Reliability:
    """Do probabilities mean what they say?"""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error, a fraction."""


@dataclass(frozen=True)
class Measured:
    """A subject's images, scored."""

    evaluation: Evaluation
    worst: tuple[Judged, ...]
    """The images whose label had the lowest probability, lowest first."""
    mistakes: tuple[Judged, ...]
    """The wrong answers that are not among the worst; only so many."""
    wrong: int
    """All wrong answers."""
    calibrated: Reliability
    raw: Reliability | None
    """Without the calibration, where there is one."""
    answer: Judged
    """What was thought of the image that is looked at closely."""


def measure(subject: Subject) -> Measured:
    """Score a subject's images.

    Raises:
        KilonetError: the corruptions that it comes with are another model's.
    """
    logits = subject.model.logits(subject.images.pixels)
    labels = subject.images.labels.numpy()
    calibration = subject.model.metadata.calibration
    probabilities = (calibration or UNFITTED).probabilities(logits.numpy())
    order = np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")
    wrong = ~correct_predictions(probabilities, labels)
    others = [index for index in order[WORST:].tolist() if wrong[index]]
    evaluation = evaluation_of(logits, subject.images)
    _check_robustness(subject, evaluation)
    return Measured(
        evaluation=evaluation,
        worst=tuple(_judged(index, probabilities, labels) for index in order[:WORST].tolist()),
        mistakes=tuple(_judged(index, probabilities, labels) for index in others[:MOST_MISTAKES]),
        wrong=int(wrong.sum()),
        calibrated=reliability(probabilities, labels),
        raw=reliability(UNFITTED.probabilities(logits.numpy()), labels) if calibration else None,
        answer=_judged(subject.digit, probabilities, labels),
    )


def _check_robustness(subject: Subject, evaluation: Evaluation) -> None:
    found = subject.robustness
    if found and round(found.clean * found.images) != evaluation.correct:
        clean, own = (f"{100 * share:.2f} %" for share in (found.clean, evaluation.accuracy))
        raise KilonetError(f"the corruptions are of a model with {clean} on clean images, but this one has {own}")


def _judged(index: int, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Judged:
    row, label = probabilities[index], int(labels[index])
    best = np.argsort(-row, kind="stable")[:3].tolist()
    return Judged(index, label, best[0], tuple((name, float(row[name])) for name in best), float(row[label]))


def reliability(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Reliability:
    """Sort answers into bins by their probability: float32 (N, classes) and int64 (N,).

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
