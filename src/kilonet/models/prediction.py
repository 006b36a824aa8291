"""Predictions for images as users have them: a class with its confidence, or why the image is none of the classes."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from kilonet.data.decode import READABLE, WORKING_SIDE, Picture
from kilonet.data.digits.marks import Box
from kilonet.data.digits.page import PAGE_SIDE, prepare_page
from kilonet.data.digits.prepare import PreparedImage, prepare_digit, prepare_row
from kilonet.data.image_folders import FolderFiles, list_files, name_files, read_picture, why_not_read
from kilonet.data.preprocessing import Preprocessing
from kilonet.models.calibration import UNFITTED
from kilonet.models.metadata import Metadata
from kilonet.models.model import Classifier
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable

STRANGE = "unlike the images it was trained on"
UNSURE = "no class is probable enough"

LEAST_LIKELY = 0.65
"""The least probability of a digit by the finder's check; below, the prediction is uncertain."""
MAY_BE_DIGIT = 0.3
"""The least probability, by the check, of an image that is given a class although it is unlike the training images."""

_LEAST_SHARE = 1e-6
"""The least share of a digit among those that the reader of rows holds possible in a place."""
_BATCH = 256
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_CSV_COLUMNS = ("file", "place", "class", "name", "probability", "uncertain", "no_digit", "none_of_these")
_CSV_EDGES = ("left", "top", "right", "bottom")

CSV_MARK = ",".join(_CSV_COLUMNS)
"""What tells a table of predictions from other files: how it begins."""
PICTURE_MARK = "Software\0kilonet"
"""What tells a picture of what was seen from other PNG files: a text in it."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image. `str()` gives it in a few words."""

    label: int | None
    """The class, from 0; None for none of the classes."""
    name: str | None
    """The class's name, or its number if the classes have no names; None for none of them."""
    probabilities: tuple[float, ...]
    """The calibrated probability of every class, even if the image is none of them."""
    uncertain: bool
    """Whether the probability is below the calibration's `sure_from`, or the image is unlike those of the training."""
    objection: str | None
    """The reason why the image is none of the classes, or None."""
    pixels: NDArray[np.uint8]
    """The network's input, uint8 (rows, columns) or (channels, rows, columns)."""
    digits: bool = True
    """Whether the classes are digits, so that none of them is "no digit"."""
    box: Box | None = None
    """Where the digit was found, in pixels of the upright file; None for an image that was not searched."""
    row: int | None = None
    """The row of a page that it stands in, from 0."""

    @property
    def probability(self) -> float:
        """The highest probability."""
        return max(self.probabilities)

    @property
    def none(self) -> str:
        """The words for an image of none of the classes."""
        return "no digit" if self.digits else "none of these"

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain values."""
        return {
            "class": self.label,
            "name": self.name,
            "probability": None if self.label is None else self.probability,
            "probabilities": list(self.probabilities),
            "uncertain": self.uncertain,
            "no_digit": self.objection if self.digits else None,
            "none_of_these": self.objection,
            "box": None if self.box is None else self.box.as_json(),
            **({} if self.row is None else {"row": self.row}),
        }

    def __str__(self) -> str:
        if self.label is None:
            return f"{self.none} ({self.objection})"
        return f"{self.name} ({100 * self.probability:.2f}%{', uncertain' if self.uncertain else ''})"


def prepare_images(
    picture: Picture, model: Classifier, *, line: bool = False, page: bool = False
) -> list[PreparedImage]:
    """Return the network's inputs for a picture: one image, or one for each digit of a row or of a page.

    Args:
        picture: the picture.
        model: the model that will see it; if it reads digits, they are found and laid out as MNIST's are. For any other
            model the picture was decoded `evenly`.
        line: whether to read several digits in a row; only for a model that reads digits.
        page: whether to read all digits in it, wherever they are; likewise.

    Returns:
        the images, with boxes in pixels of the upright file.

    Raises:
        KilonetError: the model takes neither 1 nor 3 channels.
    """
    if not model.reads_digits:
        pixels = Preprocessing.of(model.section).apply(picture.values)
        return [PreparedImage(pixels[0] if len(pixels) == 1 else pixels)]
    images = prepare_page(picture) if page else prepare_row(picture) if line else [prepare_digit(picture)]
    return [replace(image, box=image.box and image.box.scaled(picture.scale)) for image in images]


def predictions_of(
    logits: NDArray[np.float32], images: Sequence[PreparedImage], metadata: Metadata, *, digits: bool
) -> list[Prediction]:
    """Turn any engine's logits into predictions.

    Args:
        logits: float32 (N, classes).
        images: the N inputs that they were computed from.
        metadata: the model's metadata, with its calibration and its classes' names.
        digits: whether the model reads digits; then an image unlike the training images is no digit instead of an
            uncertain
            prediction.

    Raises:
        KilonetError: a logit is NaN or infinite.
    """
    calibration = metadata.calibration or UNFITTED
    logits = _with_neighbours(logits, images, calibration.temperature)
    shares, strange, uncertain = (
        calibration.probabilities(logits),
        calibration.strange(logits).tolist(),
        calibration.uncertain(logits).tolist(),
    )
    return [
        _prediction(image, row, metadata, strange=odd, uncertain=unsure, digits=digits)
        for image, row, odd, unsure in zip(images, shares, strange, uncertain, strict=True)
    ]


def _with_neighbours(
    logits: NDArray[np.float32], images: Sequence[PreparedImage], temperature: float
) -> NDArray[np.float32]:
    """Return logits whose probabilities are multiplied by those of the reader of rows, where it cut out the image.

    Such a digit was seen twice: alone by the model, and with its neighbours.
    """
    if not any(image.in_row for image in images):
        return logits
    joined = logits.copy()
    for number, image in enumerate(images):
        if image.in_row and image.likely is not None:
            shares = image.likely / max(image.likely.sum(), np.finfo(np.float32).tiny)
            joined[number] += np.float32(temperature) * np.log(np.maximum(shares, _LEAST_SHARE))
    return joined


def _prediction(
    image: PreparedImage,
    probabilities: NDArray[np.float32],
    metadata: Metadata,
    *,
    strange: bool,
    uncertain: bool,
    digits: bool,
) -> Prediction:
    # An image that came laid out as MNIST's are was meant as a digit: without negatives to know better by, its
    # prediction is uncertain, but is given.
    rejects = metadata.calibration is not None and metadata.calibration.rejects
    # So is one of which the check of the finder says that it may be a digit.
    given = image.as_given or (image.likely is not None and float(image.likely.sum()) >= MAY_BE_DIGIT)
    rejected = uncertain if rejects else strange and digits and not given
    objection = image.objection or ((STRANGE if strange else UNSURE) if rejected else None)
    best = int(probabilities.argmax())
    doubted = image.likely is not None and bool(image.likely[best] < LEAST_LIKELY)
    return Prediction(
        label=None if objection else best,
        name=None if objection else metadata.name_of(best),
        probabilities=tuple(probabilities.tolist()),
        uncertain=objection is not None or uncertain or doubted,
        objection=objection,
        pixels=image.pixels,
        digits=digits,
        box=image.box,
        row=image.row,
    )


@dataclass(frozen=True)
class PredictedFile:
    """The predictions for one file: one, or one for each digit of a row or page. `str()` gives a line, or one a row."""

    file: Path
    predictions: tuple[Prediction, ...]

    def __str__(self) -> str:
        if self.predictions[0].row is not None:
            return self._page()
        if len(self.predictions) == 1:
            return f"{printable(self.file)}: {printable(self.predictions[0])}"
        text = "".join(prediction.name or "?" for prediction in self.predictions)
        return f"{printable(self.file)}: {printable(text)} ({', '.join(map(_confidence, self.predictions))})"

    def _page(self) -> str:
        rows = [list(row) for _, row in groupby(self.predictions, lambda one: one.row)]
        uncertain = sum(one.uncertain for one in self.predictions)
        doubt = f", {uncertain} uncertain (?)" if uncertain else ""
        head = f"{printable(self.file)}: {len(self.predictions)} digits in {len(rows)} rows{doubt}"
        width = len(str(len(rows)))
        lines = [
            f"{number:{width}}: " + " ".join(f"{one.name or '-'}{'?' if one.uncertain else ' '}" for one in row)
            for number, row in enumerate(rows, 1)
        ]
        return "\n".join([head, *(line.rstrip() for line in lines)])


def _confidence(prediction: Prediction) -> str:
    if prediction.label is None:
        return prediction.none
    return f"{100 * prediction.probability:.2f}%{' uncertain' if prediction.uncertain else ''}"


@dataclass(frozen=True)
class PredictedFiles:
    """The predictions for several files. `str()` gives a line a file."""

    files: tuple[PredictedFile, ...]
    skipped: tuple[tuple[Path, str], ...]
    """A folder's files that could not be read or are of no kind that is read, each with the reason."""
    metadata: Metadata
    """The model's."""
    are_pages: bool = False
    """Whether all digits of each file were read."""

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain values."""
        calibration = self.metadata.calibration
        return {
            "predictions": [
                {"file": str(one.file), "place": place, **prediction.as_json()}
                for one in self.files
                for place, prediction in enumerate(one.predictions)
            ],
            "skipped": [{"file": str(path), "reason": reason} for path, reason in self.skipped],
            "calibration": None if calibration is None else calibration.model_dump(mode="json"),
        }

    def as_csv(self) -> str:
        """Return a table with a row a prediction and a column for each class's probability.

        Tables of pages also have the row, from 0, and the edges of the box in pixels of the file.

        A text that a spreadsheet would take for a formula begins with an apostrophe; hidden characters are escaped.
        """
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        classes = max((len(one.predictions[0].probabilities) for one in self.files), default=0)
        columns = (*_CSV_COLUMNS, "row", *_CSV_EDGES) if self.are_pages else _CSV_COLUMNS
        table.writerow([*columns, *(printable(f"p{self.metadata.name_of(label)}") for label in range(classes))])
        for row in self.as_json()["predictions"]:
            probabilities = [f"{probability:.6f}" for probability in row["probabilities"]]
            cells = {**row, **(row["box"] or {})}
            table.writerow([*(_cell(cells.get(key)) for key in columns), *probabilities])
        return stream.getvalue()

    def inputs_as_png(self) -> bytes:
        """Return the network's inputs, side by side, as a PNG file.

        Raises:
            KilonetError: there are none.
        """
        inputs = [prediction.pixels for one in self.files for prediction in one.predictions]
        if not inputs:
            raise KilonetError("no image could be read, so there is nothing to show")
        # A picture has its channels last.
        pictures = [pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0) for pixels in inputs]
        return marked_png(Image.fromarray(np.concatenate(pictures, axis=1)))

    def __str__(self) -> str:
        return "\n".join(map(str, self.files))


def marked_png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file that holds `PICTURE_MARK`."""
    information = PngImagePlugin.PngInfo()
    keyword, text = PICTURE_MARK.split("\0")
    information.add_text(keyword, text)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=information)
    return stream.getvalue()


def _cell(value: object) -> object:
    """Return a cell of a CSV table.

    Source: OWASP, "CSV injection".
    """
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{printable(value)}" if value.startswith(_FORMULA_STARTS) else printable(value)


def predict_files(
    model: Classifier, paths: Sequence[Path], *, line: bool = False, page: bool = False
) -> PredictedFiles:
    """Classify image files, with a progress bar for a folder if stderr is a terminal.

    Args:
        model: the model.
        paths: image files, or one folder; a folder's files that cannot be read are skipped and listed.
        line: whether each image has several digits in a row.
        page: whether to read all digits of each image, wherever they are.

    Raises:
        KilonetError: a folder without images, a named file that cannot be read, or `line` or `page` for a model that
            reads no digits.
    """
    if (line or page) and not model.reads_digits:
        raise KilonetError(f"the model reads no digits, so {'--line' if line else '--all'} has nothing to find")
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    listed = list_files(folder) if folder else FolderFiles(list(paths), [])
    files = listed.images
    if not files:
        raise KilonetError(_no_images(folder, listed.others) if folder else "no image given")
    predicted: list[PredictedFile] = []
    skipped = [(path, why_not_read(path)) for path in listed.others]
    # None: no bar where stderr is no terminal.
    with tqdm(total=len(files), unit="file", file=sys.stderr, disable=None if folder else True) as bar:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            images, unreadable = _read_images(batch, model, line=line, page=page, skip=folder is not None)
            predicted += _predict_images(images, model)
            skipped += unreadable
            bar.update(len(batch))
    return PredictedFiles(tuple(predicted), tuple(skipped), model.metadata, page)


def _no_images(folder: Path, others: Sequence[Path]) -> str:
    rest = f"; {name_files(others)} not read" if others else ""
    return f"{folder}: no {READABLE} files in it{rest}"


def _read_images(
    files: Sequence[Path], model: Classifier, *, line: bool, page: bool, skip: bool
) -> tuple[list[tuple[Path, list[PreparedImage]]], list[tuple[Path, str]]]:
    """Return the network's inputs for each file, and the files that cannot be read, each with the reason."""
    images: list[tuple[Path, list[PreparedImage]]] = []
    unreadable: list[tuple[Path, str]] = []
    for file in files:
        try:
            picture = read_picture(file, evenly=not model.reads_digits, side=PAGE_SIDE if page else WORKING_SIDE)
            images.append((file, prepare_images(picture, model, line=line, page=page)))
        except KilonetError as error:
            if not skip:
                raise
            unreadable.append((file, str(error)))
    return images, unreadable


def _predict_images(images: Sequence[tuple[Path, list[PreparedImage]]], model: Classifier) -> list[PredictedFile]:
    inputs = [image for _, row in images for image in row]
    if not inputs:
        return []
    pixels = torch.from_numpy(np.stack([image.pixels for image in inputs])).view(-1, *model.section.input_shape)
    logits: NDArray[np.float32] = model.logits(pixels).numpy()
    predictions = iter(predictions_of(logits, inputs, model.metadata, digits=model.reads_digits))
    return [PredictedFile(file, tuple(next(predictions) for _ in row)) for file, row in images]
