"""Scoring a model: loss, accuracy with its interval, accuracy of each class, confusion matrix and worst images."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilonet.data.datasets import DataSet, Images, load_data, load_images
from kilonet.data.decode import decode
from kilonet.data.listing import Listing, list_data
from kilonet.data.notices import tell
from kilonet.data.pictures import check_classes_read
from kilonet.data.preprocessing import Preprocessing
from kilonet.evaluation.metrics import ClassCounts, are_unequal, balanced_line
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.calibration import check_finite
from kilonet.models.classes import class_names, labels_of, match_classes
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.models.model import Classifier
from kilonet.models.prediction import prepare_images
from kilonet.network.operations import check_pixels
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable
from kilonet.utils.text_tables import aligned

WORST_IMAGES = 10
MOST_COLUMNS = 20
"""The most classes of which the confusion is printed as a table."""
_LISTED = 10
"""How many confusions and classes are listed for more classes."""
_LONGEST_IN_TABLE, _LONGEST_IN_LIST = 20, 36
"""The characters of a class's name that are printed beside the table of the confusion, and where it is a list."""

Array = TypeVar("Array", Tensor, NDArray[Any])


@dataclass(frozen=True)
class WorstImage:
    """An image with one of the highest losses."""

    index: int
    """Its place in the scored set, from 0."""
    label: int
    predicted: int
    probability: float
    """The probability of the predicted class, not calibrated, as the loss is."""
    loss: float
    """Cross-entropy in nats."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on a set of images. `str()` gives the report."""

    scored: str
    """The name of the set."""
    images: int
    correct: int
    accuracy: float
    """A fraction."""
    interval: tuple[float, float]
    """95 % interval of the accuracy (Wilson)."""
    loss: float
    """Mean cross-entropy in nats."""
    class_accuracy: tuple[float | None, ...]
    """The accuracy of each class, which is its recall, a fraction; None for a class without images."""
    confusion: tuple[tuple[int, ...], ...]
    """The number of images by label (row) and prediction (column)."""
    worst: tuple[WorstImage, ...]
    """The images with the highest loss, worst first."""
    balanced_accuracy: float
    """The mean of the accuracies of the classes that have images, a fraction."""
    macro_f1: float
    """The mean F1 score of the classes that have images or predictions, a fraction."""
    names: tuple[str, ...] | None = None
    """The names of the classes; None if they are the class numbers."""
    none_of_these: int | None = None
    """The images that the model answers with "none of these", which the figures above count by their most probable
    class; None for a model that does not reject images.
    """
    none_of_these_wrong: int | None = None
    """Those of them whose most probable class is wrong."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        confusion = self._confusion_table() if len(self.confusion) <= MOST_COLUMNS else self._confusions_list()
        return f"{self._headline()}\n\n{confusion}\n\n{self._worst_table()}"

    def _headline(self) -> str:
        low, high = self.interval
        score = f"Accuracy: {self.correct}/{self.images} ({100 * self.accuracy:.2f}%)"
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %"
        lines = [f"{self.scored} set: Average loss: {self.loss:.4f}, {score}, {interval}"]
        if are_unequal([sum(row) for row in self.confusion]):
            lines.append(balanced_line(f"{100 * self.balanced_accuracy:.2f}%", f"{100 * self.macro_f1:.2f}%"))
        if self.none_of_these is not None:
            none, wrong = self.none_of_these, self.none_of_these_wrong or 0
            answered = self.images - none
            right = (
                f"; of the others {100 * (self.correct - none + wrong) / answered:.2f}% are right" if answered else ""
            )
            lines.append(
                f"None of these: {none:,} of {self.images:,} images, {wrong:,} of them classified wrongly{right}"
            )
        return "\n".join(lines)

    def _class(self, label: int) -> str:
        """Return the number of a class, with its name if it has one."""
        if self.names is None:
            return str(label)
        name = printable(self.names[label])
        longest = _LONGEST_IN_TABLE if len(self.confusion) <= MOST_COLUMNS else _LONGEST_IN_LIST
        return f"{label} {name if len(name) <= longest else f'{name[: longest - 3]}...'}"

    def _confusion_table(self) -> str:
        width = max(len(str(entry)) for row in self.confusion for entry in row)
        width = max(width, len(str(len(self.confusion) - 1)))
        heads = " ".join(f"{label:>{width}}" for label in range(len(self.confusion)))
        classes = [self._class(label) for label in range(len(self.confusion))]
        longest = max(5, *map(len, classes))
        place = ">" if self.names is None else "<"
        lines = ["Confusion (row: label, column: prediction)", f"{'label':{place}{longest}}  {heads}  accuracy"]
        for name, row, accuracy in zip(classes, self.confusion, self.class_accuracy, strict=True):
            entries = " ".join(f"{entry or '.':>{width}}" for entry in row)
            lines.append(f"{name:{place}{longest}}  {entries}  {_percent(accuracy)}")
        return "\n".join(lines)

    def _confusions_list(self) -> str:
        """List the most frequent confusions and the worst classes: a table of all of them would be too wide."""
        confusions = sorted(
            (-entry, label, predicted)
            for label, row in enumerate(self.confusion)
            for predicted, entry in enumerate(row)
            if entry and label != predicted
        )
        rows = [("label", "predicted", "images", "of the label's")]
        for entry, label, predicted in confusions[:_LISTED]:
            rows.append((self._class(label), self._class(predicted), f"{-entry}", f"{sum(self.confusion[label])}"))
        shares = [(share, label) for label, share in enumerate(self.class_accuracy) if share is not None]
        worst = [("label", "images", "accuracy")]
        for share, label in sorted(shares)[:_LISTED]:
            worst.append((self._class(label), f"{sum(self.confusion[label])}", _percent(share)))
        without = len(self.confusion) - len(shares)
        return "\n".join(
            [
                f"Most frequent of {len(confusions)} confusions of {len(self.confusion)} classes",
                *aligned(rows, (0, 1)),
                "",
                f"Classes of the lowest accuracy{f'; {without} have no images' if without else ''}",
                *aligned(worst, (0,)),
            ]
        )

    def _worst_table(self) -> str:
        longest = [max([least, *map(len, map(self._class, column))]) for least, column in self._worst_columns()]
        label, predicted = (f"{head:>{width}}" for head, width in zip(("label", "predicted"), longest, strict=True))
        lines = ["Worst images", f"index  {label}  {predicted}  probability   loss"]
        for image in self.worst:
            figures = f"{image.probability:>11.4f} {image.loss:>6.2f}"
            words = (self._class(image.label), self._class(image.predicted))
            named = "  ".join(f"{word:>{width}}" for word, width in zip(words, longest, strict=True))
            lines.append(f"{image.index:>5}  {named}  {figures}")
        return "\n".join(lines)

    def _worst_columns(self) -> tuple[tuple[int, list[int]], tuple[int, list[int]]]:
        """Return the least widths and the classes of the columns `label` and `predicted`."""
        return (5, [image.label for image in self.worst]), (9, [image.predicted for image in self.worst])


def _percent(share: float | None) -> str:
    return "no images" if share is None else f"{100 * share:7.2f}%"


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


def class_counts(logits: Tensor, labels: Tensor) -> ClassCounts:
    """Count the right and wrong predictions of each class.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).
    """
    predictions = logits.argmax(1)
    parts = labels, predictions, labels[predictions == labels]
    return ClassCounts(*(tuple(part.bincount(minlength=logits.shape[1]).tolist()) for part in parts))


def evaluate(model: Classifier, images: Images) -> Evaluation:
    """Score a model on labelled images.

    Raises:
        KilonetError: the images have another shape than the network's input, or labels that it does not have; or the
            network computes NaN or infinity.
    """
    check_pixels(images.pixels, model.section.input_shape)
    if int(images.labels.max()) >= model.section.classes:
        raise KilonetError(f"the labels go up to {int(images.labels.max())}, but the model has {model.section.classes}")
    return evaluation_of(model.logits(images.pixels), images, model.metadata)


def images_to_score(model: Classifier, data: str, label_pattern: str | None = None) -> Images:
    """Return the images that a model is scored on.

    Args:
        model: the model.
        data: a data set as `kilonet.data.datasets.load_data` takes it, whose test images are returned; or one without
            parts, all of whose images are returned. Image files without parts may be photos if the model reads digits.
            A photo in which no digit is found is scored all the same, as the finder lays it out, and the number of such
            photos is printed on stderr. Classes are matched with the model's by name.
        label_pattern: as for `load_data`.

    Raises:
        KilonetError: no such data, a class that the model has not, or images that do not fit it.
    """
    preprocessing = Preprocessing.of(model.section)
    listing = list_data(data, label_pattern)
    if set(listing.parts) == {"all"} and model.reads_digits and listing.names is not None:
        images, skipped = _found_digits(model, listing, data)
        notes = listing.notes
    elif set(listing.parts) <= {"all", "test"}:
        images, skipped, notes = load_images(listing, preprocessing, data)
    else:
        return matched_data(model, load_data(data, preprocessing, label_pattern=label_pattern)).test
    tell(data, notes, skipped, len(images))
    if listing.names is not None and not (listing.are_numbers and model.metadata.names is None):
        known = class_names(model.metadata, model.section.classes)
        labels = torch.tensor(labels_of(listing.names, known, data))[images.labels]
        images = replace(images, labels=labels)
    return images


def _found_digits(model: Classifier, listing: Listing, data: str) -> tuple[Images, tuple[tuple[Path, str], ...]]:
    """Return images of the digits found in the photos of a listing, and the files that were skipped."""
    part = listing.parts["all"]
    pixels, labels, skipped, without_digit = [], [], list(listing.skipped), 0
    for index in range(len(part)):
        try:
            picture = decode(part.content(index), part.name(index))
        except KilonetError as error:
            skipped.append((Path(part.name(index)), str(error)))
            continue
        (image,) = prepare_images(picture, model)
        without_digit += image.objection is not None
        pixels.append(image.pixels.reshape(model.section.input_shape))
        labels.append(int(part.labels[index]))
    check_classes_read(listing, {"all": np.array(labels, np.int64)}, skipped, data)
    if without_digit:
        print(f"no digit found in {without_digit} of {len(labels)} images; scored all the same", file=sys.stderr)
    name = Path(data).resolve().name
    return Images(torch.from_numpy(np.stack(pixels)), torch.tensor(labels), name), tuple(skipped)


def matched_data(model: Classifier, data: DataSet) -> DataSet:
    """Return a data set with the labels of a model's classes; see `match_classes`.

    Raises:
        KilonetError: the model has no class of a name that the data have.
    """
    return match_classes(data, model.metadata, model.section.classes)


def evaluation_of(logits: Tensor, images: Images, metadata: Metadata = NO_METADATA) -> Evaluation:
    """Return the evaluation of a model's logits.

    Args:
        logits: float32 (N, classes).
        images: the N labelled images.
        metadata: the model's, with the names of its classes and its calibration.

    Raises:
        KilonetError: a logit is NaN or infinite, or so large that a loss is.
    """
    check_finite(logits.numpy())
    losses = functional.cross_entropy(logits, images.labels, reduction="none")
    check_finite(losses[:, None].numpy())
    counts = class_counts(logits, images.labels)
    correct, count = sum(counts.correct), len(images)
    rejected: NDArray[np.bool_] | None = None
    if metadata.calibration is not None and metadata.calibration.rejects:
        rejected = metadata.calibration.uncertain(logits.numpy())
    wrong = ~correct_predictions(logits, images.labels).numpy()
    return Evaluation(
        scored=images.name,
        images=count,
        correct=correct,
        accuracy=correct / count,
        interval=wilson_interval(correct, count),
        loss=losses.mean().item(),
        class_accuracy=counts.recall,
        confusion=tuple(map(tuple, _confusion(images.labels, logits.argmax(1), logits.shape[1]).tolist())),
        worst=_worst(losses, logits.softmax(1), images.labels),
        balanced_accuracy=counts.balanced_accuracy,
        macro_f1=counts.macro_f1,
        names=metadata.names,
        none_of_these=None if rejected is None else int(rejected.sum()),
        none_of_these_wrong=None if rejected is None else int((rejected & wrong).sum()),
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
