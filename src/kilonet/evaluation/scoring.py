"""Scoring a model: loss, accuracy with its interval, each class, the confusion matrix and the worst images."""

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilonet.data.datasets import Images
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.model import Classifier
from kilonet.network.operations import check_pixels
from kilonet.utils.errors import KilonetError

WORST_IMAGES = 10

Array = TypeVar("Array", Tensor, NDArray[Any])


@dataclass(frozen=True)
class WorstImage:
    """An image on which the model was surely wrong, or nearly."""

    index: int
    """Its place in the scored set, from 0."""
    label: int
    predicted: int
    probability: float
    """What the model gave the predicted class."""
    loss: float
    """Cross-entropy in nats."""


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a set of images. `str()` gives the report."""

    scored: str
    """Name of the set."""
    images: int
    correct: int
    accuracy: float
    """A fraction."""
    interval: tuple[float, float]
    """95 % interval of the accuracy (Wilson)."""
    loss: float
    """Mean cross-entropy in nats."""
    class_accuracy: tuple[float | None, ...]
    """Of each class's images the fraction that was recognised; None for a class without images."""
    confusion: tuple[tuple[int, ...], ...]
    """Row: the label; column: the prediction; entry: how many images."""
    worst: tuple[WorstImage, ...]
    """The images with the highest loss, worst first."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the report."""
        return f"{self._headline()}\n\n{self._confusion_table()}\n\n{self._worst_table()}"

    def _headline(self) -> str:
        low, high = self.interval
        score = f"Accuracy: {self.correct}/{self.images} ({100 * self.accuracy:.2f}%)"
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %"
        return f"{self.scored} set: Average loss: {self.loss:.4f}, {score}, {interval}"

    def _confusion_table(self) -> str:
        width = max(len(str(entry)) for row in self.confusion for entry in row)
        width = max(width, len(str(len(self.confusion) - 1)))
        heads = " ".join(f"{label:>{width}}" for label in range(len(self.confusion)))
        lines = ["Confusion (row: label, column: prediction)", f"{'label':>5}  {heads}  accuracy"]
        for label, (row, accuracy) in enumerate(zip(self.confusion, self.class_accuracy, strict=True)):
            entries = " ".join(f"{entry or '.':>{width}}" for entry in row)
            share = "no images" if accuracy is None else f"{100 * accuracy:7.2f}%"
            lines.append(f"{label:>5}  {entries}  {share}")
        return "\n".join(lines)

    def _worst_table(self) -> str:
        lines = ["Worst images", "index  label  predicted  probability   loss"]
        for image in self.worst:
            figures = f"{image.probability:>11.4f} {image.loss:>6.2f}"
            lines.append(f"{image.index:>5}  {image.label:>5}  {image.predicted:>9}  {figures}")
        return "\n".join(lines)


def correct_predictions(scores: Array, labels: Array) -> Array:
    """Return which images are classified correctly, bool (N,).

    Args:
        scores: logits or probabilities, (N, classes).
        labels: int64 (N,).
    """
    correct: Array = scores.argmax(1) == labels
    return correct


def accuracy_of(scores: Array, labels: Array) -> float:
    """Return the share of images that are classified correctly; see `correct_predictions`."""
    return int(correct_predictions(scores, labels).sum()) / len(labels)


def evaluate(model: Classifier, images: Images) -> Evaluation:
    """Score a model on labelled images.

    Raises:
        KilonetError: the images are of another size than the network's, or have labels it does not know.
    """
    check_pixels(images.pixels, model.section.input_shape)
    if int(images.labels.max()) >= model.section.classes:
        raise KilonetError(f"the labels go up to {int(images.labels.max())}, but the model has {model.section.classes}")
    return evaluation_of(model.logits(images.pixels), images)


def evaluation_of(logits: Tensor, images: Images) -> Evaluation:
    """Score what a model said of labelled images: float32 (N, classes), N of them."""
    losses = functional.cross_entropy(logits, images.labels, reduction="none")
    confusion = _confusion(images.labels, logits.argmax(1), logits.shape[1])
    correct, count = int(confusion.trace()), len(images)
    return Evaluation(
        scored=images.name,
        images=count,
        correct=correct,
        accuracy=correct / count,
        interval=wilson_interval(correct, count),
        loss=losses.mean().item(),
        class_accuracy=tuple(
            int(row[label]) / int(row.sum()) if row.any() else None for label, row in enumerate(confusion)
        ),
        confusion=tuple(tuple(row.tolist()) for row in confusion),
        worst=_worst(losses, logits.softmax(1), images.labels),
    )


def _confusion(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    pairs = labels * classes + predictions
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def _worst(losses: Tensor, probabilities: Tensor, labels: Tensor) -> tuple[WorstImage, ...]:
    order = losses.argsort(descending=True, stable=True)[:WORST_IMAGES].tolist()
    predicted = probabilities.argmax(1)
    return tuple(
        WorstImage(
            index=index,
            label=int(labels[index]),
            predicted=int(predicted[index]),
            probability=probabilities[index, predicted[index]].item(),
            loss=losses[index].item(),
        )
        for index in order
    )
