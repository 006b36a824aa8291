"""The forms that an exported folder may hold, how each is run on this machine, and how much it may differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from kilonet.export.c.bindings import CompiledC
from kilonet.export.html.browser import ExportedPage
from kilonet.export.html.page import PAGE_FILE
from kilonet.export.integer import Pixels
from kilonet.export.manifest import Export
from kilonet.models.model import MODEL_FILE, Model, load_model
from kilonet.utils.errors import KilonetError


class Form(Protocol):
    """A form at work."""

    def logits(self, pixels: Pixels) -> NDArray[Any]:
        """Classify: uint8 (N, channels, rows, columns) to (N, classes).

        An exact form gives int32, the specification's logits; another float32, in the float network's unit.
        """


@dataclass(frozen=True)
class Allowance:
    """How much a form that computes in floats may differ."""

    trained: bool
    """Whether from the trained float network; otherwise from the integer reference."""
    logits: float
    """The fraction of all logits that may be off by `TOLERANCE` or more."""
    predictions: float
    """The fraction of predictions that may differ."""


@dataclass(frozen=True)
class Kind:
    """What is known of a form beforehand."""

    open: Callable[[Path, Export], Form]
    """Raises CannotRunHere where this machine lacks what it needs, KilonetError where the folder is damaged."""
    allowance: Allowance | None = None
    """None: every logit must be the integer reference's."""


TOLERANCE = 1e-4


def trained_model(folder: Path, export: Export) -> Model:
    """Return the trained network that float forms are held against.

    Raises:
        KilonetError: its file is missing, damaged, or not what the description was made from.
    """
    model = load_model(folder / MODEL_FILE)
    if model.sha256 != export.model_sha256:
        raise KilonetError(f"{folder / MODEL_FILE}: not the model that this folder was exported from; export it again")
    return model


def _open_c(folder: Path, export: Export) -> Form:
    return CompiledC(folder, export.section.input_shape, export.section.classes)


def _open_onnx(name: str) -> Callable[[Path, Export], Form]:
    def open_file(folder: Path, export: Export) -> Form:
        # Only here, so that the other forms need none of its libraries.
        from kilonet.export.onnx.session import OnnxSession  # noqa: PLC0415

        return OnnxSession(folder / name, export.section.input_shape, export.section.classes)

    return open_file


def _open_html(folder: Path, _: Export) -> Form:
    return ExportedPage(folder / PAGE_FILE)


FORMS: Mapping[str, Kind] = {
    "c": Kind(_open_c),
    "html": Kind(_open_html),
    "onnx": Kind(_open_onnx("model.onnx"), Allowance(trained=True, logits=0.0, predictions=0.0)),
    "onnx-int8": Kind(_open_onnx("model-int8.onnx"), Allowance(trained=False, logits=0.05, predictions=5e-4)),
}
"""By the name that an export's description has; docs/ONNX.md explains the allowances."""
