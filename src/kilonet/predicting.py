"""Prediction as the command line does it: files, rows of digits, whole folders, what the network saw, a CSV file."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from kilonet.data.digits.prepare import PreparedImage
from kilonet.data.image_folders import image_files, read_picture
from kilonet.export.loading import load
from kilonet.models.metadata import Metadata
from kilonet.models.model import Classifier
from kilonet.models.prediction import Answer, answers, prepare_images
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically

_BATCH = 256
_CSV_HEAD = ("file", "place", "class", "name", "probability", "uncertain", "no_digit")


@dataclass(frozen=True)
class FileAnswers:
    """What is said of one file: one answer, or one for each digit of a row."""

    file: Path
    answers: tuple[Answer, ...]

    def __str__(self) -> str:
        """Return one line; a row's text has a question mark for a mark that is no digit."""
        if len(self.answers) == 1:
            return f"{self.file}: {self.answers[0]}"
        text = "".join(answer.name or "?" for answer in self.answers)
        figures = ", ".join(
            f"{100 * answer.probability:.2f}%{' uncertain' if answer.uncertain else ''}" if answer.name else "no digit"
            for answer in self.answers
        )
        return f"{self.file}: {text} ({figures})"


@dataclass(frozen=True)
class Predicted:
    """What is said of all files. `str()` gives a line a file."""

    found: tuple[FileAnswers, ...]
    skipped: tuple[tuple[Path, str], ...]
    """Files that could not be read, with the reason; only in a folder."""
    metadata: Metadata

    @property
    def status(self) -> int:
        """The exit status: 1 where a file was skipped."""
        return 1 if self.skipped else 0

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain values."""
        calibration = self.metadata.calibration
        return {
            "predictions": [
                {"file": str(one.file), "place": place, **answer.as_json()}
                for one in self.found
                for place, answer in enumerate(one.answers)
            ],
            "skipped": [{"file": str(path), "reason": reason} for path, reason in self.skipped],
            "calibration": None if calibration is None else calibration.model_dump(mode="json"),
        }

    def as_csv(self) -> str:
        """Return a table with a row an answer."""
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        classes = max((len(one.answers[0].probabilities) for one in self.found), default=0)
        table.writerow([*_CSV_HEAD, *(f"p{self.metadata.name_of(label)}" for label in range(classes))])
        for row in self.as_json()["predictions"]:
            figures = [f"{probability:.6f}" for probability in row["probabilities"]]
            table.writerow([*("" if row[key] is None else row[key] for key in _CSV_HEAD), *figures])
        return stream.getvalue()

    def __str__(self) -> str:
        """Return a line a file."""
        return "\n".join(map(str, self.found))


def predict(
    source: str, paths: Sequence[Path], *, line: bool = False, show: Path | None = None, table: Path | None = None
) -> Predicted:
    """Say what is on images.

    Args:
        source: the model, see `kilonet.models.model.load`.
        paths: image files, or one folder, whose unreadable files are skipped.
        line: whether each holds digits in a row.
        show: a PNG file to write with what the network saw, side by side.
        table: a CSV file to write.

    Raises:
        KilonetError: nothing to read, a named file that cannot be read, or a model that does not do what is asked.
    """
    model = load(source)
    if line and not model.reads_digits:
        raise KilonetError(f"{source} reads no digits, so --line has nothing to split")
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    files = _listed(folder) if folder else list(paths)
    found: list[FileAnswers] = []
    skipped: list[tuple[Path, str]] = []
    for batch in _batches(files, progress=folder is not None):
        sights, failed = _see_all(batch, model, line=line, strict=folder is None)
        skipped += failed
        found += _answered(sights, model)
    predicted = Predicted(tuple(found), tuple(skipped), model.metadata)
    _write(predicted, show, table)
    return predicted


def say_skipped(predicted: Predicted) -> None:
    """List on stderr what could not be read."""
    for _, reason in predicted.skipped:
        print(f"kilonet: skipped: {reason}", file=sys.stderr)
    if predicted.skipped:
        count = len(predicted.skipped)
        print(f"kilonet: {count} of {count + len(predicted.found)} files could not be read", file=sys.stderr)


def _listed(folder: Path) -> list[Path]:
    files = image_files(folder)
    if not files:
        raise KilonetError(f"{folder}: no PNG or JPEG files in it")
    return files


def _batches(files: Sequence[Path], *, progress: bool) -> Iterator[Sequence[Path]]:
    """Give the files in batches, with a bar if stderr is a terminal."""
    with tqdm(total=len(files), unit="file", file=sys.stderr, disable=None if progress else True) as bar:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            yield batch
            bar.update(len(batch))


def _see_all(
    files: Sequence[Path], model: Classifier, *, line: bool, strict: bool
) -> tuple[list[tuple[Path, list[PreparedImage]]], list[tuple[Path, str]]]:
    sights: list[tuple[Path, list[PreparedImage]]] = []
    failed: list[tuple[Path, str]] = []
    for file in files:
        try:
            sights.append((file, see(file, model, line=line)))
        except KilonetError as error:
            if strict:
                raise
            failed.append((file, str(error)))
    return sights, failed


def see(file: Path, model: Classifier, *, line: bool = False) -> list[PreparedImage]:
    """Return what a model is shown of a file: one sight, or with `line` one for each digit of a row.

    Raises:
        KilonetError: the file cannot be read, or is of another size where the model reads no digits.
    """
    return prepare_images(read_picture(file), model, str(file), line=line)


def _answered(sights: list[tuple[Path, list[PreparedImage]]], model: Classifier) -> list[FileAnswers]:
    flat = [sight for _, row in sights for sight in row]
    if not flat:
        return []
    pixels = torch.from_numpy(np.stack([sight.pixels for sight in flat])).view(-1, *model.section.input_shape)
    said = iter(answers(flat, model.logits(pixels).numpy(), model.metadata, digits=model.reads_digits))
    return [FileAnswers(file, tuple(next(said) for _ in row)) for file, row in sights]


def _write(predicted: Predicted, show: Path | None, table: Path | None) -> None:
    if table is not None:
        write_atomically(table, predicted.as_csv().encode())
    if show is not None:
        stream = io.BytesIO()
        seen = [answer.seen for one in predicted.found for answer in one.answers]
        # Channels last, as images have them, and side by side.
        strip = np.concatenate([image if image.ndim == 2 else image.transpose(1, 2, 0) for image in seen], axis=1)
        Image.fromarray(strip).save(stream, "PNG")
        write_atomically(show, stream.getvalue())
