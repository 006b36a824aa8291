"""Metrics of a classifier: its accuracy, and two that count every class alike however many images it has.

Balanced accuracy is the mean of the classes' recalls; source: K. H. Brodersen et al., "The balanced accuracy and its
posterior distribution", 2010. Macro F1 is the mean of the classes' F1 scores, the "averaged F1" of J. Opitz and
S. Burst, "Macro F1 and Macro F1", 2019. Both are as scikit-learn computes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]

METRIC_NAMES: Mapping[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}
"""The metrics that runs are compared by and that a sweep can search by, with their names in tables."""

_UNEQUAL = 1.5
"""The ratio of the largest to the smallest class from which on balanced accuracy and macro F1 are printed."""


@dataclass(frozen=True)
class ClassCounts:
    """The sums of a confusion matrix: of its rows, its columns and its diagonal, an integer for each class."""

    images: tuple[int, ...]
    """The images of each class."""
    predicted: tuple[int, ...]
    """The images that are predicted to be of each class."""
    correct: tuple[int, ...]
    """The images of each class that are predicted to be of it."""

    @property
    def recall(self) -> tuple[float | None, ...]:
        """The share of each class's images that are predicted to be of it; None for a class without images."""
        pairs = zip(self.correct, self.images, strict=True)
        return tuple(correct / images if images else None for correct, images in pairs)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the recalls of the classes that have images, a fraction."""
        known = [share for share in self.recall if share is not None]
        return sum(known) / len(known)

    @property
    def macro_f1(self) -> float:
        """The mean F1 score of the classes that have images or predictions, a fraction.

        The F1 score of a class is 2 correct / (images + predicted): zero where none is correct.
        """
        counts = zip(self.correct, self.images, self.predicted, strict=True)
        scores = [2 * correct / (images + predicted) for correct, images, predicted in counts if images + predicted]
        return sum(scores) / len(scores)


def are_unequal(class_images: Sequence[int]) -> bool:
    """Return whether classes of so many images, without the empty ones, are so unequal that accuracy tells little."""
    counts = [count for count in class_images if count]
    return max(counts) >= _UNEQUAL * min(counts)


def balanced_line(balanced_accuracy: str, macro_f1: str) -> str:
    """Return the line that is printed where the classes are unequal in size, for the two figures as text."""
    return f"Balanced accuracy: {balanced_accuracy} (mean of the classes' accuracies), macro F1: {macro_f1}"
