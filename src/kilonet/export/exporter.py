"""`kilonet export`: write a trained model to a folder in one of its forms, with a manifest that describes it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import kilonet
from kilonet.data.datasets import DataSet, Images
from kilonet.data.section import AugmentSection
from kilonet.evaluation.scoring import evaluate
from kilonet.export.c import codegen
from kilonet.export.c.footprint import footprint_of
from kilonet.export.c.header import FAMILIES, GENERIC, CFacts
from kilonet.export.c.packages import PACKAGES
from kilonet.export.c.prefix import DEFAULT_PREFIX, check_prefix, with_prefix
from kilonet.export.folder import ExportFolder, open_folder
from kilonet.export.forms import FORMS
from kilonet.export.html.page import PAGE_FILE, check_takes_pictures
from kilonet.export.integer import IntegerNetwork, Pixels, integer_logits
from kilonet.export.manifest import MANIFEST_FILE, Manifest, manifest_content, same_network
from kilonet.export.quantisation import QuantisationResult, integer_accuracy, quantise
from kilonet.export.training_data import augment_of
from kilonet.models.model import MODEL_FILE, PACKAGED_LICENCE, Model, packaged_models
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import shell_word

STORED_IMAGES = 8


@dataclass(frozen=True, eq=False)
class ExportResult:
    """The files and figures of an export. `str()` gives the text that `kilonet export` prints."""

    folder: Path
    files: tuple[str, ...]
    """Names of the files in the folder, those of other forms not included."""
    figures: Mapping[str, object]
    """Accuracies (fractions) and sizes (bytes) by the names that `--json` prints."""
    summary: tuple[str, ...]
    """The same figures as lines of text."""
    is_page: bool = False
    """Whether a browser opens the form."""
    use: str = ""
    """What a project does with a package."""

    def as_json(self) -> dict[str, object]:
        """Return the folder, the files and the figures by name."""
        return {"folder": str(self.folder), "files": list(self.files), **self.figures}

    def __str__(self) -> str:
        """Return the summary, the names of the files and the next command."""
        look = f"open {shell_word(self.folder / PAGE_FILE)}, or " if self.is_page else ""
        written = f"Wrote {', '.join(self.files)} to {self.folder}"
        use = [f"Then: {self.use}"] if self.use else []
        return "\n".join([*self.summary, written, f"Next: {look}kilonet verify {shell_word(self.folder)}", *use])


def export_model(
    form: str,
    model: Model,
    data: DataSet,
    folder: Path,
    source: str,
    *,
    max_flash: int | None = None,
    max_ram: int | None = None,
    prefix: str | None = None,
    family: str | None = None,
) -> ExportResult:
    """Write a model in one form.

    Args:
        form: "c", "html", "onnx", or a name of `PACKAGES`.
        model: the trained network.
        data: the data set that it was trained on.
        folder: where to; made if it is missing.
        source: the model's name or path as the user gave it; the page takes its name from it, and fine-tuning the
            random changes of a run.
        max_flash: limit of the C form's flash in bytes.
        max_ram: limit of the C form's RAM in bytes.
        prefix: what the names of the C form begin with.
        family: the processors that the C form is for, a name of `FAMILIES`; None for all.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: a limit, a prefix or a family is given for another form than C, or an error of `export_c`,
            `export_onnx` or `export_html`.
    """
    augment = augment_of(source)
    if form == "c" or form in PACKAGES:
        licence = PACKAGED_LICENCE if source in packaged_models() else None
        named = DEFAULT_PREFIX if prefix is None else prefix
        package = None if form == "c" else form
        return export_c(
            model,
            data,
            folder,
            max_flash,
            max_ram,
            prefix=named,
            licence=licence,
            package=package,
            family=family,
            augment=augment,
        )
    if form not in ("html", "onnx"):
        raise KilonetError(f"'{form}' is no form; choose one of c, {', '.join(PACKAGES)}, html, onnx")
    if prefix is not None:
        raise KilonetError(
            "--prefix is what the names of the C form begin with: give it with --to c or a package of it"
        )
    if family is not None:
        raise KilonetError("--target is the processor of the C form: give it with --to c or a package of it")
    if max_flash is not None or max_ram is not None:
        raise KilonetError(
            "--max-flash and --max-ram are limits of microcontrollers: give them with --to c or a package of it"
        )
    if form == "onnx":
        return export_onnx(model, data, folder, augment)
    return export_html(model, data, folder, model_name(source), augment)


def model_name(source: str) -> str:
    """Return a short name for a model: its packaged name, or the name of its folder or file."""
    path = Path(source).resolve()
    return path.parent.name if path.name == MODEL_FILE else path.name.removesuffix(".safetensors")


def export_c(
    model: Model,
    data: DataSet,
    folder: Path,
    max_flash: int | None = None,
    max_ram: int | None = None,
    *,
    prefix: str = DEFAULT_PREFIX,
    licence: str | None = None,
    package: str | None = None,
    family: str | None = None,
    augment: AugmentSection | None = None,
) -> ExportResult:
    """Write the C form of a model.

    Args:
        model: the trained network.
        data: the data set that it was trained on. Scales are chosen on the training images; the header states the
            accuracy on the test images.
        folder: where to; made if it is missing.
        max_flash: the most bytes of flash it may take on a Cortex-M0.
        max_ram: the most bytes of RAM.
        prefix: what the names of functions, macros and files begin with.
        licence: the model's licence, which the header states.
        package: the package to write it as, a name of `PACKAGES`; None for its files alone.
        family: the processors that it is for, a name of `FAMILIES`; None for all.
        augment: as for `quantise`.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: no usable prefix or family, images of another size, or a folder that cannot be written, or that
            holds another model or the C form with another prefix or as another package.
    """
    check_prefix(prefix)
    if family is not None and family not in FAMILIES:
        raise KilonetError(f"'{family}' is no family of processors; choose one of {', '.join(FAMILIES)}")
    facts = CFacts(prefix, family=family or GENERIC)
    with open_folder(folder, model) as target:
        _check_held_form(target, prefix, package)
        quantised = quantise(model, data.train, augment)
        sources = codegen.sources(quantised.network, model.section, model.metadata, facts)
        footprint = footprint_of(quantised.network, sources, prefix)
        footprint.check(max_flash, max_ram)
        accuracy = integer_accuracy(quantised.network, data.test)
        manifest = dataclasses.replace(
            _new_manifest(model, data, quantised.network, {"c": accuracy}),
            prefix=prefix,
            licence=licence,
            package=package,
            family=None if family == GENERIC else family,
        )
        files = _publish(target, manifest, {"c": footprint.as_json()}, model)
    figures = {**_holdout_figures(quantised), "test_integer_accuracy": accuracy, **footprint.as_json()}
    use = "" if package is None else with_prefix(PACKAGES[package].use, prefix)
    return ExportResult(folder, files, figures, (_integers_line(quantised), str(footprint)), use=use)


def _check_held_form(target: ExportFolder, prefix: str, package: str | None) -> None:
    """Check that no files of the C form would be left over beside the new ones.

    Raises:
        KilonetError: the folder has the C form with another prefix or as another package.
    """
    held = target.held
    if held is None or "c" not in held.forms:
        return
    if held.package != package:
        raise KilonetError(
            f"{target.path} holds the C form as --to {held.package or 'c'} writes it; choose another folder or empty it"
        )
    if (held.prefix or DEFAULT_PREFIX) != prefix:
        raise KilonetError(
            f"{target.path} holds the C form with the prefix '{held.prefix or DEFAULT_PREFIX}'; give --prefix with it, "
            "choose another folder or empty it"
        )


def export_onnx(model: Model, data: DataSet, folder: Path, augment: AugmentSection | None = None) -> ExportResult:
    """Write the float32 and int8 ONNX forms of a model, and the model file, which `verify` compares the floats with.

    Args:
        model: the trained network.
        data: the data set that it was trained on. Scales are chosen on the training images; the accuracy on the test
            images is written into the files.
        folder: where to; made if it is missing.
        augment: as for `quantise`.

    Raises:
        KilonetError: a library of the extra `onnx` is missing, images of another size, or a folder
            that cannot be written or holds another model.
    """
    # Imported here, so that a missing library is told before the work begins, and only to those who need it.
    from kilonet.export.onnx import float32, int8  # noqa: F401, PLC0415

    with open_folder(folder, model) as target:
        quantised = quantise(model, data.train, augment)
        accuracies = {
            "onnx": evaluate(model, data.test).accuracy,
            "onnx-int8": integer_accuracy(quantised.network, data.test),
        }
        manifest = _new_manifest(model, data, quantised.network, accuracies)
        files = _publish(target, manifest, dict.fromkeys(accuracies), model)
    return ExportResult(folder, files, _holdout_figures(quantised), (_integers_line(quantised),))


def export_html(
    model: Model, data: DataSet, folder: Path, name: str, augment: AugmentSection | None = None
) -> ExportResult:
    """Write a model as one HTML page.

    Args:
        model: the trained network.
        data: the data set that it was trained on. Scales are chosen on the training images; the page states the
            accuracy on the test images.
        folder: where to; made if it is missing.
        name: the model's name on the page.
        augment: as for `quantise`.

    Raises:
        KilonetError: the network takes images of neither one nor three channels, images of another size, or a folder
            that cannot be written or holds another model.
    """
    check_takes_pictures(model.section.input_shape)
    with open_folder(folder, model) as target:
        quantised = quantise(model, data.train, augment)
        accuracy = integer_accuracy(quantised.network, data.test)
        manifest = _new_manifest(model, data, quantised.network, {"html": accuracy}, name)
        files = _publish(target, manifest, {"html": None}, model)
    size = (folder / PAGE_FILE).stat().st_size
    figures = {
        "bytes": size,
        "test_integer_accuracy": accuracy,
        "finetuned": quantised.finetuned_accuracy is not None,
    }
    summary = (
        f"Integers: {100 * accuracy:.2f}% of the test images",
        f"Page: {size:,} bytes in one file, to be opened in any browser, offline too",
    )
    return ExportResult(folder, files, figures, summary, is_page=True)


def _holdout_figures(quantised: QuantisationResult) -> dict[str, object]:
    return {
        "holdout_float_accuracy": quantised.float_accuracy,
        "holdout_integer_accuracy": quantised.accuracy,
        "finetuned": quantised.finetuned_accuracy is not None,
    }


def _integers_line(quantised: QuantisationResult) -> str:
    before, after = (100 * accuracy for accuracy in (quantised.float_accuracy, quantised.accuracy))
    images = f"{quantised.images:,} training images that were set aside when scales were chosen"
    return f"Integers: {after:.2f}% of {images}, {before:.2f}% as floats"


def _new_manifest(
    model: Model, data: DataSet, network: IntegerNetwork, accuracies: Mapping[str, float] | None = None, name: str = ""
) -> Manifest:
    """Return the manifest of a model's export with test vectors and no form yet."""
    pixels = _test_vectors(data.train)
    return Manifest(
        model.section,
        model.sha256,
        network,
        pixels,
        integer_logits(network, pixels),
        forms={},
        metadata=model.metadata,
        data=data.source,
        data_sha256=None if data.source is None else data.fingerprint(),
        label_pattern=data.label_pattern,
        accuracies=accuracies or {},
        # A folder's name need not be UTF-8, but a page is.
        name=name.encode(errors="replace").decode(),
        kilonet=kilonet.__version__,
    )


def _publish(
    target: ExportFolder, manifest: Manifest, forms: Mapping[str, Mapping[str, int | None] | None], model: Model
) -> tuple[str, ...]:
    """Write forms to a folder, beside those that it has already, and return the names of the files written.

    Args:
        target: the folder.
        manifest: the manifest without forms.
        forms: the figures of each form; None for the bytes of its one file.
        model: the exported model.

    Raises:
        KilonetError: the folder has a form of other integers, or cannot be written.
    """
    contents = {form: FORMS[form].write(manifest, lambda: model) for form in forms}
    figures = {form: found or {"bytes": len(next(iter(contents[form].values())))} for form, found in forms.items()}
    files = {name: content for written in contents.values() for name, content in written.items()}
    files[MANIFEST_FILE] = manifest_content(_with_held_forms(manifest, figures, target))
    target.publish(files)
    return tuple(files)


def _with_held_forms(
    manifest: Manifest, forms: Mapping[str, Mapping[str, int | None]], target: ExportFolder
) -> Manifest:
    held = target.held
    kept = {} if held is None else {form: figures for form, figures in held.forms.items() if form not in forms}
    if held is None or not kept:
        return dataclasses.replace(manifest, forms=forms)
    if not same_network(held.network, manifest.network):
        raise KilonetError(
            f"{target.path} holds {' and '.join(kept)} of this model with other integers, as of other --data; "
            "choose another folder or empty it"
        )
    accuracies = {form: held.accuracies[form] for form in kept if form in held.accuracies}
    return dataclasses.replace(
        manifest,
        forms={**kept, **forms},
        accuracies={**accuracies, **manifest.accuracies},
        name=manifest.name or held.name,
        prefix=manifest.prefix or held.prefix,
        licence=manifest.licence if manifest.prefix else held.licence,
        package=manifest.package if manifest.prefix else held.package,
        family=manifest.family if manifest.prefix else held.family,
    )


def _test_vectors(images: Images) -> Pixels:
    """Return eight training images, a black one, a white one and two of noise: uint8 (12, channels, rows, columns)."""
    few: Pixels = images.pixels[:STORED_IMAGES].numpy()
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *few.shape[1:]).numpy()
    noise = np.random.RandomState(0).randint(0, 256, (2, *few.shape[1:]), dtype=np.uint8)
    return np.concatenate([few, extremes, noise])
