"""`kilonet verify`: compare every exported form with the reference on the test vectors and the whole test set."""

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
from kilonet.export.forms import FORMS, TOLERANCE, Allowance, FormRunner, trained_model
from kilonet.export.integer import Pixels, integer_logits
from kilonet.export.manifest import Manifest, read_manifest
from kilonet.network.operations import check_pixels
from kilonet.utils.errors import CannotRunHere, KilonetError
from kilonet.utils.text_tables import aligned

_MICROSECONDS = 1e6


@dataclass(frozen=True)
class FormResult:
    """The measurements of one form."""

    form: str
    accuracy: float
    """Fraction of the test images."""
    differing_logits: int
    """How many logits differ, of the test images and the test vectors together; in a form that computes in floats, by
    `TOLERANCE` or more."""
    differing_predictions: int
    """How many of the test images are classified differently."""
    flash: int | None
    """Bytes; None for a form that is not for microcontrollers."""
    ram: int | None
    """Bytes."""
    microseconds: float
    """Mean time of an image on this machine."""
    passed: bool


@dataclass(frozen=True)
class Verification:
    """The measurements of all forms. `str()` gives the table."""

    images: int
    vectors: int
    rows: tuple[FormResult, ...]
    not_run: dict[str, str]
    """Why a form could not run on this machine, by its name."""

    @property
    def passed(self) -> bool:
        """Whether no form differs by more than the specification allows."""
        return all(row.passed for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain lists and numbers."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        """Return the table with one line for each form."""
        heads = ("form", "accuracy", "logits", "predictions", "flash", "RAM", "us/image", "")
        rows = [heads, *(_cells(row) for row in self.rows)]
        lines = aligned(rows, (0,))
        head = f"{self.images:,} test images and {self.vectors} stored vectors; logits and predictions: how many differ"
        notes = [f"{form}: not run here: {reason}" for form, reason in self.not_run.items()]
        return "\n".join([head, "", lines[0], "-" * max(map(len, lines)), *lines[1:], *notes])


@dataclass(frozen=True, eq=False)
class _Logits:
    """Logits of the test images and of the test vectors, (N, classes) each."""

    images: NDArray[Any]
    vectors: NDArray[Any]
    microseconds: float = 0.0
    """Mean time of a test image."""


def verify(folder: Path, images: Images) -> Verification:
    """Run every form in an exported folder and compare it with the reference.

    Args:
        folder: an exported folder.
        images: the test set.

    Raises:
        KilonetError: no such folder, a damaged manifest or form, images of another size, or no form that can run on
            this machine.
    """
    manifest = read_manifest(folder)
    check_pixels(images.pixels, manifest.section.input_shape)
    forms, not_run = _open_forms(folder, manifest)
    rows = tuple(_rows(folder, manifest, forms, images))
    return Verification(len(images), len(manifest.pixels), rows, not_run)


def _open_forms(folder: Path, manifest: Manifest) -> tuple[dict[str, FormRunner], dict[str, str]]:
    forms: dict[str, FormRunner] = {}
    not_run: dict[str, str] = {}
    for name in manifest.forms:
        if name not in FORMS:
            raise KilonetError(f"{folder}: its form '{name}' is unknown to this version of Kilonet")
        try:
            forms[name] = FORMS[name].open(folder, manifest)
        except CannotRunHere as error:
            not_run[name] = str(error)
    if not_run and not forms:
        raise KilonetError(next(iter(not_run.values())))
    return forms, not_run


def _rows(folder: Path, manifest: Manifest, forms: dict[str, FormRunner], images: Images) -> Iterator[FormResult]:
    reference = _classify(lambda pixels: integer_logits(manifest.network, pixels), manifest, images)
    stored = int((reference.vectors != manifest.logits).sum())
    seconds = reference.microseconds
    yield FormResult("reference", _accuracy(reference, images), stored, 0, None, None, seconds, passed=stored == 0)
    for name, form in forms.items():
        allowance = FORMS[name].allowance
        found = _classify(form.logits, manifest, images)
        wanted = _expected_logits(folder, manifest, images, reference, allowance)
        differing, predictions = _differing_logits(found, wanted, allowance), _differing_predictions(found, wanted)
        passed = _is_allowed(differing, predictions, found, allowance)
        bytes_of = (manifest.forms[name].get("flash"), manifest.forms[name].get("ram"))
        accuracy = _accuracy(found, images)
        yield FormResult(name, accuracy, differing, predictions, *bytes_of, found.microseconds, passed)


def _classify(classify: Callable[[Pixels], NDArray[Any]], manifest: Manifest, images: Images) -> _Logits:
    start = time.perf_counter()
    found = classify(images.pixels.numpy())
    seconds = time.perf_counter() - start
    return _Logits(found, classify(manifest.pixels), seconds * _MICROSECONDS / len(images))


def _expected_logits(
    folder: Path, manifest: Manifest, images: Images, reference: _Logits, allowance: Allowance | None
) -> _Logits:
    """Return the logits that a form must give, in the form's unit."""
    if allowance is None:
        return reference
    if allowance.with_trained:
        model = trained_model(folder, manifest)
        return _classify(lambda pixels: model.logits(torch.tensor(pixels)).numpy(), manifest, images)
    unit = 2.0**-manifest.network.fraction_bits
    return _Logits(reference.images * unit, reference.vectors * unit)


def _differing_logits(found: _Logits, wanted: _Logits, allowance: Allowance | None) -> int:
    if allowance is None:
        return int((found.images != wanted.images).sum() + (found.vectors != wanted.vectors).sum())
    pairs = ((found.images, wanted.images), (found.vectors, wanted.vectors))
    # Written as a negation, so that NaN counts as different.
    return sum(int((~(np.abs(one - other) < TOLERANCE)).sum()) for one, other in pairs)


def _differing_predictions(found: _Logits, wanted: _Logits) -> int:
    return int((found.images.argmax(1) != wanted.images.argmax(1)).sum())


def _is_allowed(differing: int, predictions: int, found: _Logits, allowance: Allowance | None) -> bool:
    if allowance is None:
        return differing == 0
    logits_of_all = found.images.size + found.vectors.size
    return differing <= allowance.logits * logits_of_all and predictions <= math.ceil(
        allowance.predictions * len(found.images)
    )


def _accuracy(scores: _Logits, images: Images) -> float:
    return accuracy_of(scores.images, images.labels.numpy())


def _cells(row: FormResult) -> tuple[str, ...]:
    sizes = ("" if size is None else f"{size:,}" for size in (row.flash, row.ram))
    differing = (f"{row.differing_logits:,}", f"{row.differing_predictions:,}")
    verdict = "" if row.passed else "DIFFERS"
    return (row.form, f"{100 * row.accuracy:.2f}%", *differing, *sizes, f"{row.microseconds:.1f}", verdict)
