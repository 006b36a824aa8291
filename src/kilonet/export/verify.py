"""`kilonet verify`: compare every exported form with the reference on the test vectors and the whole test set.

First every file of the folder is compared with what `kilonet export` writes. Where all are the same, these files are
written again into a folder of our own and run there; where one differs, nothing of the folder is run unless the caller
says so.
"""

import functools
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import kilonet
from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export.c.packages import source_path
from kilonet.export.c.prefix import DEFAULT_PREFIX
from kilonet.export.c.targets import HEADS as TARGET_HEADS
from kilonet.export.c.targets import TARGETS, TargetResult, run_target
from kilonet.export.forms import FORMS, Allowance, FormRunner, trained_model
from kilonet.export.integer import Pixels, integer_logits
from kilonet.export.manifest import MANIFEST_FILE, Manifest, manifest_content, read_manifest
from kilonet.models.model import Model
from kilonet.network.operations import check_pixels
from kilonet.utils.errors import CannotRunHere, KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.text_tables import aligned

_MICROSECONDS = 1e6
_LARGEST_SOURCE = 1 << 28
"""Bytes."""


@dataclass(frozen=True)
class FormResult:
    """The measurements of one form."""

    form: str
    accuracy: float
    """Fraction of the test images."""
    differing_logits: int
    """How many logits differ, of the test images and the test vectors together; in a form that computes in floats, by
    the tolerance of its `Allowance` or more."""
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
    """Empty if nothing was run, because of foreign files."""
    not_run: dict[str, str]
    """Why a form could not run on this machine, by its name."""
    foreign: dict[str, str]
    """The files that are not what `kilonet export` writes, by name, and in what they are not."""
    targets: tuple[TargetResult, ...] = ()
    """What microcontrollers showed, if it was asked for."""
    written_by: str = ""
    """The version of Kilonet that wrote the folder, if it is another than this and there are foreign files."""

    @property
    def passed(self) -> bool:
        """Whether the forms were run and none differs by more than the specification allows."""
        return bool(self.rows) and all(row.passed for row in self.rows) and all(row.passed for row in self.targets)

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain lists and numbers."""
        table = {**asdict(self), "passed": self.passed}
        if not self.targets:
            del table["targets"]
        return table

    def __str__(self) -> str:
        """Return the table with one line for each form, and one line for each foreign file."""
        return "\n".join([*self._table(), *self._targets_table(), *self._foreign_lines()])

    def _table(self) -> list[str]:
        if not self.rows:
            return []
        heads = ("form", "accuracy", "logits", "predictions", "flash", "RAM", "us/image", "")
        rows = [heads, *(_cells(row) for row in self.rows)]
        lines = aligned(rows, (0,))
        head = f"{self.images:,} test images and {self.vectors} stored vectors; logits and predictions: how many differ"
        notes = [f"{form}: not run here: {reason}" for form, reason in self.not_run.items()]
        return [head, "", lines[0], "-" * max(map(len, lines)), *lines[1:], *notes]

    def _targets_table(self) -> list[str]:
        run = [result for result in self.targets if not result.not_run]
        lines = aligned([TARGET_HEADS, *(result.cells() for result in run)], (0,)) if run else []
        notes = [f"{result.target}: not run here: {result.not_run}" for result in self.targets if result.not_run]
        rule = ["-" * max(map(len, lines))] if lines else []
        return [*([""] if self.targets else []), *lines[:1], *rule, *lines[1:], *notes]

    def _foreign_lines(self) -> list[str]:
        if not self.foreign:
            return []
        lines = [f"{name}: {reason}" for name, reason in self.foreign.items()]
        if self.written_by:
            lines.append(
                f"Kilonet {self.written_by} wrote this folder, and this is {kilonet.__version__}: "
                "export the model to it again"
            )
        if not self.rows:
            lines.append(
                "Nothing of this folder was run. Remove what was added (what 'make' made, by 'make clean') or export "
                "anew; --run-foreign-code runs the folder all the same, if you trust it"
            )
        return lines


@dataclass(frozen=True, eq=False)
class _Logits:
    """Logits of the test images and of the test vectors, (N, classes) each."""

    images: NDArray[Any]
    vectors: NDArray[Any]
    microseconds: float = 0.0
    """Mean time of a test image."""


def verify(folder: Path, images: Images, *, run_foreign_code: bool = False, targets: bool = False) -> Verification:
    """Compare the files of an exported folder with what an export writes, run every form, and compare their logits.

    Args:
        folder: an exported folder.
        images: the test set.
        run_foreign_code: whether a folder whose files differ is run all the same.
        targets: whether the C form is built for microcontrollers too, and run under emulators.

    Raises:
        KilonetError: no such folder, a damaged manifest or form, images of another size, no form that can run on this
            machine, or `targets` without a C form or without a compiler and an emulator for any.
    """
    manifest = read_manifest(folder)
    if targets:
        _check_targets(folder, manifest)
    check_pixels(images.pixels, manifest.section.input_shape)
    for name in manifest.forms:
        if name not in FORMS:
            raise KilonetError(f"{folder}: its form '{name}' is unknown to this version of Kilonet")
    trained = functools.cache(lambda: trained_model(folder, manifest))
    own, not_run = _own_files(manifest, trained)
    foreign = foreign_files(folder, own, uncompared=_files_of_forms_not_written(not_run))
    if foreign and not run_foreign_code:
        written_by = _other_version(manifest)
        return Verification(len(images), len(manifest.pixels), (), not_run, foreign, written_by=written_by)
    with tempfile.TemporaryDirectory(prefix="kilonet-") as copy:
        # What is run is what was compared, and nothing else lies beside it.
        for name, content in own.items():
            (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(copy) / name).write_bytes(content)
        place = folder if foreign else Path(copy)
        forms = _open_forms(place, manifest, not_run)
        rows = tuple(_rows(trained, manifest, forms, images))
        found = tuple(_run_targets(place, own, manifest, images)) if targets else ()
    return Verification(len(images), len(manifest.pixels), rows, not_run, foreign, found, _other_version(manifest))


def _check_targets(folder: Path, manifest: Manifest) -> None:
    if "c" not in manifest.forms:
        raise KilonetError(f"{folder}: --targets is for the C form, which this folder does not hold; export --to c")
    if all(target.missing for target in TARGETS):
        raise KilonetError(
            "--targets needs a compiler and an emulator, such as arm-none-eabi-gcc and qemu-system-arm; "
            "install those of one target in docs/CHIP.md"
        )


def _run_targets(place: Path, names: Iterable[str], manifest: Manifest, images: Images) -> Iterator[TargetResult]:
    prefix = manifest.prefix or DEFAULT_PREFIX
    folder = Path(source_path("", manifest.package))
    sources = {
        Path(name).name: read_bounded(place / name, _LARGEST_SOURCE, "a C file")
        for name in names
        if Path(name).parent == folder and name.endswith((".c", ".h"))
    }
    for target in TARGETS:
        yield run_target(target, manifest.network, sources, images.pixels.numpy(), prefix)


def foreign_files(folder: Path, own: Mapping[str, bytes], uncompared: Collection[str] = ()) -> dict[str, str]:
    """Return what is not as an export writes it in a folder: names of files, and in what they differ.

    Args:
        folder: the folder.
        own: the content of the files that an export writes, by their paths in the folder.
        uncompared: names of files that may be there with any content.

    Raises:
        KilonetError: a file cannot be read.
    """
    there = set(_paths(folder, {str(parent) for name in own for parent in PurePosixPath(name).parents}))
    found: dict[str, str] = {}
    for name in sorted((there | set(own)) - set(uncompared)):
        if name not in there:
            found[name] = "missing"
        elif name not in own:
            found[name] = "not written by kilonet export"
        elif not _holds(folder / name, own[name]):
            found[name] = "differs from what kilonet export writes"
    return found


def _paths(folder: Path, folders: Collection[str], above: str = "") -> Iterator[str]:
    """Yield the paths of all that is in a folder, and of what is in its `folders`, relative to it."""
    for entry in folder.iterdir():
        path = f"{above}{entry.name}"
        if path in folders and entry.is_dir() and not entry.is_symlink():
            yield from _paths(entry, folders, f"{path}/")
        else:
            yield path


def _holds(file: Path, content: bytes) -> bool:
    # Anything but a file, such as a pipe, might never end.
    if not file.is_file() or file.stat().st_size != len(content):
        return False
    return read_bounded(file, len(content), "a file of this export") == content


def _own_files(manifest: Manifest, trained: Callable[[], Model]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files that an export with this manifest writes, and why some forms cannot be written here."""
    own = {MANIFEST_FILE: manifest_content(manifest)}
    not_run: dict[str, str] = {}
    for form in manifest.forms:
        try:
            own |= FORMS[form].write(manifest, trained)
        except CannotRunHere as error:
            not_run[form] = str(error)
    return own, not_run


def _files_of_forms_not_written(not_run: Mapping[str, str]) -> set[str]:
    return {name for form in not_run for name in FORMS[form].files}


def _other_version(manifest: Manifest) -> str:
    """Return the version that wrote a folder, if it is another than this one, else ''."""
    if manifest.kilonet != kilonet.__version__:
        return manifest.kilonet or "of another version"
    return f"{manifest.kilonet} (before --prefix)" if "c" in manifest.forms and manifest.prefix is None else ""


def _open_forms(place: Path, manifest: Manifest, not_run: dict[str, str]) -> dict[str, FormRunner]:
    """Open the forms in a folder; why one cannot run here is added to `not_run`.

    Raises:
        KilonetError: none can run here.
    """
    forms: dict[str, FormRunner] = {}
    for name in manifest.forms:
        if name in not_run:
            continue
        try:
            forms[name] = FORMS[name].open(place, manifest)
        except CannotRunHere as error:
            not_run[name] = str(error)
    if not_run and not forms:
        raise KilonetError(next(iter(not_run.values())))
    return forms


def _rows(
    trained: Callable[[], Model], manifest: Manifest, forms: dict[str, FormRunner], images: Images
) -> Iterator[FormResult]:
    reference = _classify(lambda pixels: integer_logits(manifest.network, pixels), manifest, images)
    stored = int((reference.vectors != manifest.logits).sum())
    seconds = reference.microseconds
    yield FormResult("reference", _accuracy(reference, images), stored, 0, None, None, seconds, passed=stored == 0)
    for name, form in forms.items():
        allowance = FORMS[name].allowance
        found = _classify(form.logits, manifest, images)
        wanted = _expected_logits(trained, manifest, images, reference, allowance)
        differing, predictions = _differing_logits(found, wanted, allowance), _differing_predictions(found, wanted)
        passed = _is_allowed(differing, predictions, found, allowance)
        bytes_of = (manifest.forms[name].get("flash"), manifest.forms[name].get("ram"))
        accuracy = _accuracy(found, images)
        yield FormResult(name, accuracy, differing, predictions, *bytes_of, found.microseconds, passed)


def _classify(classify: Callable[[Pixels], NDArray[Any]], manifest: Manifest, images: Images) -> _Logits:
    # All at once: a page's browser takes longer to start than it computes.
    pixels = np.concatenate([images.pixels.numpy(), manifest.pixels])
    start = time.perf_counter()
    found = classify(pixels)
    seconds = time.perf_counter() - start
    return _Logits(found[: len(images)], found[len(images) :], seconds * _MICROSECONDS / len(pixels))


def _expected_logits(
    trained: Callable[[], Model], manifest: Manifest, images: Images, reference: _Logits, allowance: Allowance | None
) -> _Logits:
    """Return the logits that a form must give, in the form's unit."""
    if allowance is None:
        return reference
    if allowance.with_trained:
        model = trained()
        return _classify(lambda pixels: model.logits(torch.tensor(pixels)).numpy(), manifest, images)
    unit = 2.0**-manifest.network.fraction_bits
    return _Logits(reference.images * unit, reference.vectors * unit)


def _differing_logits(found: _Logits, wanted: _Logits, allowance: Allowance | None) -> int:
    if allowance is None:
        return int((found.images != wanted.images).sum() + (found.vectors != wanted.vectors).sum())
    pairs = ((found.images, wanted.images), (found.vectors, wanted.vectors))
    tolerance = allowance.tolerance * (float(wanted.images.std()) if allowance.of_spread else 1.0)
    # Written as a negation, so that NaN counts as different.
    return sum(int((~(np.abs(one - other) < tolerance)).sum()) for one, other in pairs)


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
