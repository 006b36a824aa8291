"""`kilonet verify`: every exported form against the reference, on the stored vectors and the whole test set."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.datasets import Images
from kilonet.errors import CannotRunHere, KilonetError
from kilonet.ship import description
from kilonet.ship.description import Export
from kilonet.ship.forms import EXACT, OPENERS
from kilonet.ship.integer import logits

_MICROSECONDS = 1e6


@dataclass(frozen=True)
class Row:
    """What a form showed."""

    form: str
    accuracy: float
    """A fraction of the test images."""
    differing_logits: int
    """Of the test images and the stored vectors together, against the reference."""
    differing_predictions: int
    """Of the test images."""
    flash: int | None
    """Bytes; None where it does not apply."""
    ram: int | None
    """Bytes."""
    microseconds: float
    """An image, one after another, on this machine."""
    passed: bool


@dataclass(frozen=True)
class Verification:
    """What all forms showed. `str()` gives the table."""

    images: int
    vectors: int
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    """A line for each form that cannot be run on this machine."""

    @property
    def passed(self) -> bool:
        """Whether no form differs by more than the specification allows."""
        return all(row.passed for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        """Return the table, a line a form."""
        heads = ("form", "accuracy", "logits", "predictions", "flash", "RAM", "us/image", "")
        rows = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
        head = f"{self.images:,} test images and {self.vectors} stored vectors; logits and predictions: how many differ"
        return "\n".join([head, "", lines[0], "-" * max(map(len, lines)), *lines[1:], *self.left_out])


def verify(folder: Path, images: Images) -> Verification:
    """Replay an exported folder.

    Args:
        folder: what `kilonet export` wrote.
        images: the test set.

    Raises:
        KilonetError: no such folder, a damaged description, images of another size, or a form that does not run.
    """
    export = description.read(folder)
    if tuple(images.pixels.shape[1:]) != export.section.input_shape:
        raise KilonetError(f"the images are {tuple(images.pixels.shape[1:])}, not {export.section.input_shape}")
    left_out: list[str] = []
    rows = tuple(_rows(folder, export, images, left_out))
    return Verification(len(images), len(export.pixels), rows, tuple(left_out))


def _rows(folder: Path, export: Export, images: Images, left_out: list[str]) -> Iterator[Row]:
    wanted, seconds = _timed(lambda pixels: logits(export.network, pixels), images)
    stored = int((logits(export.network, export.pixels) != export.logits).sum())
    yield Row("reference", _accuracy(wanted, images), stored, 0, None, None, seconds, passed=stored == 0)
    for name, figures in export.forms.items():
        if name not in OPENERS:
            raise KilonetError(f"{folder}: its form '{name}' is none that this Kilonet knows")
        try:
            form = OPENERS[name](folder, export)
        except CannotRunHere as error:
            left_out.append(f"{name}: not run here: {error}")
            continue
        found, seconds = _timed(form.logits, images)
        differing = int((found != wanted).sum()) + int((form.logits(export.pixels) != export.logits).sum())
        predictions = int((found.argmax(1) != wanted.argmax(1)).sum())
        passed = differing == 0 or name not in EXACT
        bytes_of = (figures.get("flash"), figures.get("ram"))
        yield Row(name, _accuracy(found, images), differing, predictions, *bytes_of, seconds, passed)


def _timed(classify: Any, images: Images) -> tuple[NDArray[np.int32], float]:
    start = time.perf_counter()
    found = classify(images.pixels.numpy())
    return found, (time.perf_counter() - start) * _MICROSECONDS / len(images)


def _accuracy(scores: NDArray[np.int32], images: Images) -> float:
    return float((scores.argmax(1) == images.labels.numpy()).mean())


def _cells(row: Row) -> tuple[str, ...]:
    sizes = ("" if size is None else f"{size:,}" for size in (row.flash, row.ram))
    differing = (f"{row.differing_logits:,}", f"{row.differing_predictions:,}")
    verdict = "" if row.passed else "DIFFERS"
    return (row.form, f"{100 * row.accuracy:.2f}%", *differing, *sizes, f"{row.microseconds:.1f}", verdict)
