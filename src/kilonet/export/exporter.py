"""`kilonet export`: write a trained model to a folder in one of its forms, with a manifest that describes it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.scoring import accuracy_of, evaluate
from kilonet.export.c import codegen
from kilonet.export.c.footprint import footprint_of
from kilonet.export.html.page import PAGE_FILE, PageFacts, check_draws_digits, page_html
from kilonet.export.integer import IntegerNetwork, Pixels, integer_logits
from kilonet.export.manifest import MANIFEST_FILE, Manifest, read_manifest, write_manifest
from kilonet.export.onnx import FLOAT_FILE, INT8_FILE
from kilonet.export.quantisation import QuantisationResult, quantise
from kilonet.models.model import MODEL_FILE, Model
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically

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

    def as_json(self) -> dict[str, object]:
        """Return the folder, the files and the figures by name."""
        return {"folder": str(self.folder), "files": list(self.files), **self.figures}

    def __str__(self) -> str:
        """Return the summary, the names of the files and the next command."""
        look = f"open {self.folder / PAGE_FILE}, or " if self.is_page else ""
        written = f"Wrote {', '.join(self.files)} to {self.folder}"
        return "\n".join([*self.summary, written, f"Next: {look}kilonet verify {self.folder}"])


def export_model(
    form: Literal["c", "html", "onnx"],
    model: Model,
    data: DataSet,
    folder: Path,
    source: str,
    *,
    max_flash: int | None = None,
    max_ram: int | None = None,
) -> ExportResult:
    """Write a model in one form.

    Args:
        form: which form.
        model: the trained network.
        data: the data set that it was trained on.
        folder: where to; made if it is missing.
        source: the model's name or path as the user gave it; the page takes its name from it.
        max_flash: limit of the C form's flash in bytes.
        max_ram: limit of the C form's RAM in bytes.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: a limit is given for another form than C, or an error of `export_c`, `export_onnx` or
            `export_html`.
    """
    if form == "c":
        return export_c(model, data, folder, max_flash, max_ram)
    if max_flash is not None or max_ram is not None:
        raise KilonetError("--max-flash and --max-ram are limits of microcontrollers: give them with --to c")
    if form == "onnx":
        return export_onnx(model, data, folder)
    return export_html(model, data, folder, model_name(source))


def model_name(source: str) -> str:
    """Return a short name for a model: its packaged name, or the name of its folder or file."""
    path = Path(source).resolve()
    return path.parent.name if path.name == MODEL_FILE else path.name.removesuffix(".safetensors")


def export_c(
    model: Model, data: DataSet, folder: Path, max_flash: int | None = None, max_ram: int | None = None
) -> ExportResult:
    """Write the C form of a model.

    Args:
        model: the trained network.
        data: the data set that it was trained on; scales are chosen on the training images.
        folder: where to; made if it is missing.
        max_flash: the most bytes of flash it may take on a Cortex-M0.
        max_ram: the most bytes of RAM.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: images of another size, or a folder that cannot be written or holds another model.
    """
    prepare_folder(folder, model)
    quantised = quantise(model, data.train)
    sources = codegen.sources(quantised.network)
    footprint = footprint_of(quantised.network, sources)
    footprint.check(max_flash, max_ram)
    for name, content in sources.items():
        write_atomically(folder / name, content.encode())
    _add_form(folder, "c", footprint.as_json(), _new_manifest(model, data, quantised.network))
    figures = {**_holdout_figures(quantised), **footprint.as_json()}
    return ExportResult(folder, (*sources, MANIFEST_FILE), figures, (_integers_line(quantised), str(footprint)))


def export_onnx(model: Model, data: DataSet, folder: Path) -> ExportResult:
    """Write the float32 and int8 ONNX forms of a model, and the model file, which `verify` compares the floats with.

    Args:
        model: the trained network.
        data: the data set that it was trained on. Scales are chosen on the training images; the accuracy on the test
            images is written into the files.
        folder: where to; made if it is missing.

    Raises:
        KilonetError: a library of the extra `onnx` is missing, images of another size, or a folder
            that cannot be written or holds another model.
    """
    # Imported only here, so that the other forms do not need the libraries of the extra `onnx`.
    from kilonet.export.onnx.float32 import float_graph  # noqa: PLC0415
    from kilonet.export.onnx.int8 import int8_graph  # noqa: PLC0415

    prepare_folder(folder, model)
    quantised = quantise(model, data.train)
    network = quantised.network
    graphs = {
        ("onnx", FLOAT_FILE): float_graph(model, evaluate(model, data.test).accuracy),
        ("onnx-int8", INT8_FILE): int8_graph(model, network, _integer_accuracy(network, data.test)),
    }
    model.save(folder / MODEL_FILE)
    manifest = _new_manifest(model, data, network)
    for (form, name), graph in graphs.items():
        content = graph.SerializeToString(deterministic=True)
        write_atomically(folder / name, content)
        _add_form(folder, form, {"bytes": len(content)}, manifest)
    files = (FLOAT_FILE, INT8_FILE, MODEL_FILE, MANIFEST_FILE)
    return ExportResult(folder, files, _holdout_figures(quantised), (_integers_line(quantised),))


def export_html(model: Model, data: DataSet, folder: Path, name: str) -> ExportResult:
    """Write a model as one HTML page.

    Args:
        model: the trained network.
        data: the data set that it was trained on. Scales are chosen on the training images; the page states the
            accuracy on the test images.
        folder: where to; made if it is missing.
        name: the model's name on the page.

    Raises:
        KilonetError: the network does not read digits, images of another size, or a folder that cannot be written or
            holds another model.
    """
    check_draws_digits(model.section.input_shape, model.section.classes)
    prepare_folder(folder, model)
    quantised = quantise(model, data.train)
    accuracy = _integer_accuracy(quantised.network, data.test)
    content = page_html(quantised.network, PageFacts(name, model.section.parameters, accuracy)).encode()
    write_atomically(folder / PAGE_FILE, content)
    _add_form(folder, "html", {"bytes": len(content)}, _new_manifest(model, data, quantised.network))
    figures = {
        "bytes": len(content),
        "test_integer_accuracy": accuracy,
        "finetuned": quantised.finetuned_accuracy is not None,
    }
    summary = (
        f"Integers: {100 * accuracy:.2f}% of the test images",
        f"Page: {len(content):,} bytes in one file, to be opened in any browser, offline too",
    )
    return ExportResult(folder, (PAGE_FILE, MANIFEST_FILE), figures, summary, is_page=True)


def prepare_folder(folder: Path, model: Model) -> None:
    """Make the folder of an export if it is missing, and check that it is empty or holds the same model.

    Raises:
        KilonetError: it cannot be made, holds something else, or holds another model.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise KilonetError(f"{folder} cannot be made: {error.strerror}") from None
    if not is_empty and read_manifest(folder).model_sha256 != model.sha256:
        raise KilonetError(f"{folder} holds another model's export; choose another folder or empty it")


def _integer_accuracy(network: IntegerNetwork, images: Images) -> float:
    return accuracy_of(integer_logits(network, images.pixels.numpy()), images.labels.numpy())


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


def _new_manifest(model: Model, data: DataSet, network: IntegerNetwork) -> Manifest:
    """Return the manifest of a model's export with test vectors and no form yet."""
    pixels = _test_vectors(data.train)
    logits = integer_logits(network, pixels)
    known = (data.source, None if data.source is None else data.fingerprint())
    return Manifest(model.section, model.sha256, network, pixels, logits, {}, model.metadata, *known)


def _add_form(folder: Path, form: str, figures: dict[str, int | None], manifest: Manifest) -> None:
    """Write the folder's manifest with the forms that it lists already and this one."""
    forms = read_manifest(folder).forms if (folder / MANIFEST_FILE).exists() else {}
    write_manifest(folder, dataclasses.replace(manifest, forms={**forms, form: figures}))


def _test_vectors(images: Images) -> Pixels:
    """Return eight training images, a black one, a white one and two of noise: uint8 (12, channels, rows, columns)."""
    few: Pixels = images.pixels[:STORED_IMAGES].numpy()
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *few.shape[1:]).numpy()
    noise = np.random.RandomState(0).randint(0, 256, (2, *few.shape[1:]), dtype=np.uint8)
    return np.concatenate([few, extremes, noise])
