"""`kilonet verify`: every exported form against the reference, on the stored vectors and the whole test set."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export import manifest
from kilonet.export.forms import FORMS, TOLERANCE, Allowance, Form, trained_model
from kilonet.export.integer import Pixels, logits
from kilonet.export.manifest import Export
from kilonet.network.operations import check_pixels
from kilonet.utils.errors import CannotRunHere, KilonetError
from kilonet.utils.text_tables import aligned

_MICROSECONDS = 1e6


@dataclass(frozen=True)
class Row:
    """What a form showed."""

    form: str
    accuracy: float
    """A fraction of the test images."""
    differing_logits: int
    """Of the test images and the stored vectors together, against the reference; where a form computes in floats, those
    that are off by `TOLERANCE` or more."""
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
    not_run: dict[str, str]
    """Why a form could not be run on this machine, by its name."""

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
        lines = aligned(rows, (0,))
        head = f"{self.images:,} test images and {self.vectors} stored vectors; logits and predictions: how many differ"
        notes = [f"{form}: not run here: {reason}" for form, reason in self.not_run.items()]
        return "\n".join([head, "", lines[0], "-" * max(map(len, lines)), *lines[1:], *notes])


@dataclass(frozen=True, eq=False)
class _Scores:
    """Logits of the test images and of the stored vectors, (N, classes) each."""

    images: NDArray[Any]
    vectors: NDArray[Any]
    microseconds: float = 0.0
    """An image of the test set."""


def verify(folder: Path, images: Images) -> Verification:
    """Replay an exported folder.

    Args:
        folder: what `kilonet export` wrote.
        images: the test set.

    Raises:
        KilonetError: no such folder, a damaged description or form, images of another size, or no form at all that can
            be run here.
    """
    export = manifest.read(folder)
    check_pixels(images.pixels, export.section.input_shape)
    forms, not_run = _open_forms(folder, export)
    rows = tuple(_rows(folder, export, forms, images))
    return Verification(len(images), len(export.pixels), rows, not_run)


def _open_forms(folder: Path, export: Export) -> tuple[dict[str, Form], dict[str, str]]:
    forms: dict[str, Form] = {}
    not_run: dict[str, str] = {}
    for name in export.forms:
        if name not in FORMS:
            raise KilonetError(f"{folder}: its form '{name}' is none that this Kilonet knows")
        try:
            forms[name] = FORMS[name].open(folder, export)
        except CannotRunHere as error:
            not_run[name] = str(error)
    if not_run and not forms:
        raise KilonetError(next(iter(not_run.values())))
    return forms, not_run


def _rows(folder: Path, export: Export, forms: dict[str, Form], images: Images) -> Iterator[Row]:
    reference = _score(lambda pixels: logits(export.network, pixels), export, images)
    stored = int((reference.vectors != export.logits).sum())
    seconds = reference.microseconds
    yield Row("reference", _accuracy(reference, images), stored, 0, None, None, seconds, passed=stored == 0)
    for name, form in forms.items():
        allowance = FORMS[name].allowance
        found = _score(form.logits, export, images)
        wanted = _wanted(folder, export, images, reference, allowance)
        differing, predictions = _differing_logits(found, wanted, allowance), _differing_predictions(found, wanted)
        passed = _is_allowed(differing, predictions, found, allowance)
        bytes_of = (export.forms[name].get("flash"), export.forms[name].get("ram"))
        accuracy = _accuracy(found, images)
        yield Row(name, accuracy, differing, predictions, *bytes_of, found.microseconds, passed)


def _score(classify: Callable[[Pixels], NDArray[Any]], export: Export, images: Images) -> _Scores:
    start = time.perf_counter()
    found = classify(images.pixels.numpy())
    seconds = time.perf_counter() - start
    return _Scores(found, classify(export.pixels), seconds * _MICROSECONDS / len(images))


def _wanted(folder: Path, export: Export, images: Images, reference: _Scores, allowance: Allowance | None) -> _Scores:
    """Return what a form must give, in its own unit."""
    if allowance is None:
        return reference
    if allowance.trained:
        model = trained_model(folder, export)
        return _score(lambda pixels: model.logits(torch.tensor(pixels)).numpy(), export, images)
    unit = 2.0**-export.network.fraction_bits
    return _Scores(reference.images * unit, reference.vectors * unit)


def _differing_logits(found: _Scores, wanted: _Scores, allowance: Allowance | None) -> int:
    if allowance is None:
        return int((found.images != wanted.images).sum() + (found.vectors != wanted.vectors).sum())
    pairs = ((found.images, wanted.images), (found.vectors, wanted.vectors))
    # Written so that what is not a number differs.
    return sum(int((~(np.abs(one - other) < TOLERANCE)).sum()) for one, other in pairs)


def _differing_predictions(found: _Scores, wanted: _Scores) -> int:
    return int((found.images.argmax(1) != wanted.images.argmax(1)).sum())


def _is_allowed(differing: int, predictions: int, found: _Scores, allowance: Allowance | None) -> bool:
    if allowance is None:
        return differing == 0
    logits_of_all = found.images.size + found.vectors.size
    return differing <= allowance.logits * logits_of_all and predictions <= math.ceil(
        allowance.predictions * len(found.images)
    )


def _accuracy(scores: _Scores, images: Images) -> float:
    return accuracy_of(scores.images, images.labels.numpy())


def _cells(row: Row) -> tuple[str, ...]:
    sizes = ("" if size is None else f"{size:,}" for size in (row.flash, row.ram))
    differing = (f"{row.differing_logits:,}", f"{row.differing_predictions:,}")
    verdict = "" if row.passed else "DIFFERS"
    return (row.form, f"{100 * row.accuracy:.2f}%", *differing, *sizes, f"{row.microseconds:.1f}", verdict)
