"""`kilonet export`: from a trained model to a folder with one of its forms and its description."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export import manifest
from kilonet.export.c import codegen
from kilonet.export.c.footprint import Footprint, footprint_of
from kilonet.export.html.page import PAGE_FILE, Claim, check_draws_digits, page_html
from kilonet.export.integer import IntegerNetwork, Pixels, logits
from kilonet.export.manifest import Export
from kilonet.export.quantisation import Quantised, quantise
from kilonet.models.model import MODEL_FILE, Model
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import write_atomically

STORED_IMAGES = 8


@dataclass(frozen=True, eq=False)
class Exported:
    """What was written where. `str()` gives the lines that `kilonet export` prints."""

    folder: Path
    files: tuple[str, ...]
    quantised: Quantised

    def as_json(self) -> dict[str, object]:
        """Return the figures by name."""
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "holdout_float_accuracy": self.quantised.float_accuracy,
            "holdout_integer_accuracy": self.quantised.accuracy,
            "finetuned": self.quantised.finetuned_accuracy is not None,
        }

    def __str__(self) -> str:
        """Return the report."""
        before, after = (100 * value for value in (self.quantised.float_accuracy, self.quantised.accuracy))
        return "\n".join(
            [
                f"Integers: {after:.2f}% of the held-out training images, {before:.2f}% as floats",
                *self._figures(),
                f"Wrote {', '.join(self.files)} to {self.folder}",
                f"Next: kilonet verify {self.folder}",
            ]
        )

    def _figures(self) -> tuple[str, ...]:
        """Return lines of what is particular to the form."""
        return ()


@dataclass(frozen=True, eq=False)
class ExportedC(Exported):
    """The C form with what it takes on a microcontroller."""

    footprint: Footprint

    def as_json(self) -> dict[str, object]:
        """Return the figures by name."""
        return {**super().as_json(), **self.footprint.as_json()}

    def _figures(self) -> tuple[str, ...]:
        return (str(self.footprint),)


def export_as(
    form: Literal["c", "html", "onnx"],
    model: Model,
    data: DataSet,
    folder: Path,
    source: str,
    *,
    max_flash: int | None = None,
    max_ram: int | None = None,
) -> "Exported | ExportedHtml":
    """Write one form of a model; `source` is what the user called it, the limits are for C alone.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: limits for another form, or as the form's own function says.
    """
    if form == "c":
        return export_c(model, data.train, folder, max_flash, max_ram)
    if max_flash is not None or max_ram is not None:
        raise KilonetError("--max-flash and --max-ram are limits of microcontrollers: give them with --to c")
    if form == "onnx":
        return export_onnx(model, data, folder)
    return export_html(model, data, folder, display_name(source))


def display_name(source: str) -> str:
    """Return what to call a model on a page: its packaged name, or its folder's or its file's."""
    path = Path(source).resolve()
    return path.parent.name if path.name == MODEL_FILE else path.name.removesuffix(".safetensors")


def export_c(
    model: Model, images: Images, folder: Path, max_flash: int | None = None, max_ram: int | None = None
) -> ExportedC:
    """Write the C form of a model.

    Args:
        model: the trained network.
        images: its training images, to choose scales on.
        folder: where to; made if it is missing.
        max_flash: the most bytes of flash it may take on a Cortex-M0.
        max_ram: the most bytes of RAM.

    Raises:
        CheckFailed: a limit is exceeded; nothing is written.
        KilonetError: images of another size, or a folder that cannot be written or holds another model.
    """
    check_folder(folder, model)
    quantised = quantise(model, images)
    sources = codegen.sources(quantised.network)
    footprint = footprint_of(quantised.network, sources)
    footprint.check(max_flash, max_ram)
    for name, content in sources.items():
        write_atomically(folder / name, content.encode())
    add_form(folder, "c", footprint.as_json(), of_model(model, images, quantised.network))
    return ExportedC(folder, (*sources, manifest.DESCRIPTION_FILE), quantised, footprint)


def export_onnx(model: Model, data: DataSet, folder: Path) -> Exported:
    """Write the ONNX forms of a model, float and int8, and its model file, which `verify` holds the floats against.

    Args:
        model: the trained network.
        data: what it was trained on: scales are chosen on the training images, the files tell the test accuracy.
        folder: where to; made if it is missing.

    Raises:
        KilonetError: a library of the extra `onnx` is missing, images of another size, or a folder
            that cannot be written or holds another model.
    """
    # Only here, so that the other forms need none of its libraries.
    from kilonet.export.onnx.float32 import write_onnx  # noqa: PLC0415

    check_folder(folder, model)
    quantised = quantise(model, data.train)
    sizes = write_onnx(model, quantised.network, folder, data.test)
    model.save(folder / MODEL_FILE)
    export = of_model(model, data.train, quantised.network)
    for form, size in zip(("onnx", "onnx-int8"), sizes.values(), strict=True):
        add_form(folder, form, {"bytes": size}, export)
    return Exported(folder, (*sizes, MODEL_FILE, manifest.DESCRIPTION_FILE), quantised)


@dataclass(frozen=True, eq=False)
class ExportedHtml:
    """The page that was written where. `str()` gives the lines that `kilonet export` prints."""

    folder: Path
    size: int
    """Bytes."""
    accuracy: float
    """Of the integers on the test images, a fraction; the page says so."""
    quantised: Quantised

    def as_json(self) -> dict[str, object]:
        """Return the figures by name."""
        return {
            "folder": str(self.folder),
            "files": [PAGE_FILE, manifest.DESCRIPTION_FILE],
            "bytes": self.size,
            "test_integer_accuracy": self.accuracy,
            "finetuned": self.quantised.finetuned_accuracy is not None,
        }

    def __str__(self) -> str:
        """Return the report."""
        return "\n".join(
            [
                f"Integers: {100 * self.accuracy:.2f}% of the test images",
                f"Page: {self.size:,} bytes in one file, to be opened in any browser, offline too",
                f"Wrote {PAGE_FILE}, {manifest.DESCRIPTION_FILE} to {self.folder}",
                f"Next: open {self.folder / PAGE_FILE}, or kilonet verify {self.folder}",
            ]
        )


def export_html(model: Model, data: DataSet, folder: Path, name: str) -> ExportedHtml:
    """Write a model as one HTML page.

    Args:
        model: the trained network.
        data: training images, to choose scales on, and test images, for the accuracy that the page tells.
        folder: where to; made if it is missing.
        name: what the page calls the model.

    Raises:
        KilonetError: no network of digits, images of another size, or a folder that cannot be written or holds another
            model.
    """
    check_draws_digits(model.section.input_shape, model.section.classes)
    check_folder(folder, model)
    quantised = quantise(model, data.train)
    scores = logits(quantised.network, data.test.pixels.numpy())
    accuracy = accuracy_of(scores, data.test.labels.numpy())
    content = page_html(quantised.network, Claim(name, model.section.parameters, accuracy)).encode()
    write_atomically(folder / PAGE_FILE, content)
    add_form(folder, "html", {"bytes": len(content)}, of_model(model, data.train, quantised.network))
    return ExportedHtml(folder, len(content), accuracy, quantised)


def check_folder(folder: Path, model: Model) -> None:
    """Make the folder of an export, or see that it can take another form of the same model.

    Raises:
        KilonetError: it cannot be made, holds something else, or holds another model.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise KilonetError(f"{folder} cannot be made: {error.strerror}") from None
    if not is_empty and manifest.read(folder).model_sha256 != model.sha256:
        raise KilonetError(f"{folder} holds another model's export; choose another folder or empty it")


def of_model(model: Model, images: Images, network: IntegerNetwork) -> Export:
    """Describe a model's export, with vectors stored and no form yet."""
    pixels = _vectors(images)
    return Export(model.section, model.sha256, network, pixels, logits(network, pixels), {})


def add_form(folder: Path, form: str, figures: dict[str, int | None], export: Export) -> None:
    """Write the folder's description: the forms that it has, and this one with its figures."""
    forms = manifest.read(folder).forms if (folder / manifest.DESCRIPTION_FILE).exists() else {}
    manifest.write(folder, dataclasses.replace(export, forms={**forms, form: figures}))


def _vectors(images: Images) -> Pixels:
    """Return a few training images, and what tries the ends of the range: black, white and noise."""
    few: Pixels = images.pixels[:STORED_IMAGES].numpy()
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *few.shape[1:]).numpy()
    noise = np.random.RandomState(0).randint(0, 256, (2, *few.shape[1:]), dtype=np.uint8)
    return np.concatenate([few, extremes, noise])
