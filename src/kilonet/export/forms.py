"""The forms that an exported folder may hold: how each runs on this machine, and how much its logits may differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from kilonet.export.c.bindings import CompiledC
from kilonet.export.html.browser import PageRunner
from kilonet.export.html.page import PAGE_FILE
from kilonet.export.integer import Pixels
from kilonet.export.manifest import Manifest
from kilonet.export.onnx import FLOAT_FILE, INT8_FILE
from kilonet.models.model import MODEL_FILE, Model, load_model
from kilonet.utils.errors import KilonetError


class FormRunner(Protocol):
    """A form of an exported network, ready to run on this machine."""

    def logits(self, pixels: Pixels) -> NDArray[Any]:
        """Return logits: uint8 (N, channels, rows, columns) to (N, classes).

        They are int32 in an integer form, and float32 in the float network's unit in a form with an `Allowance`.
        """


@dataclass(frozen=True)
class Allowance:
    """How much the logits of a form that computes in floats may differ from the expected ones."""

    with_trained: bool
    """Whether it is compared with the trained float network, or else with the integer reference."""
    logits: float
    """The fraction of all logits that may be off by `TOLERANCE` or more."""
    predictions: float
    """The fraction of predictions that may differ."""


@dataclass(frozen=True)
class Form:
    """How to run a form and what to expect of it."""

    open: Callable[[Path, Manifest], FormRunner]
    """Raises CannotRunHere if this machine lacks a program or library for it, KilonetError if the folder is damaged."""
    allowance: Allowance | None = None
    """None: every logit must equal the integer reference's."""


TOLERANCE = 1e-4
"""Logits of float forms that differ by less count as equal."""


def trained_model(folder: Path, manifest: Manifest) -> Model:
    """Return the trained network that the float ONNX form is compared with.

    Raises:
        KilonetError: its file is missing, damaged, or not the model that was exported.
    """
    model = load_model(folder / MODEL_FILE)
    if model.sha256 != manifest.model_sha256:
        raise KilonetError(f"{folder / MODEL_FILE}: not the model that was exported to this folder; export it again")
    return model


def _open_c(folder: Path, manifest: Manifest) -> FormRunner:
    return CompiledC(folder, manifest.section.input_shape, manifest.section.classes)


def _open_onnx(name: str) -> Callable[[Path, Manifest], FormRunner]:
    def open_file(folder: Path, manifest: Manifest) -> FormRunner:
        # Imported only here, so that the other forms do not need the libraries of the extra `onnx`.
        from kilonet.export.onnx.session import OnnxSession  # noqa: PLC0415

        return OnnxSession(folder / name, manifest.section.input_shape, manifest.section.classes)

    return open_file


def _open_html(folder: Path, _: Manifest) -> FormRunner:
    return PageRunner(folder / PAGE_FILE)


FORMS: Mapping[str, Form] = {
    "c": Form(_open_c),
    "html": Form(_open_html),
    "onnx": Form(_open_onnx(FLOAT_FILE), Allowance(with_trained=True, logits=0.0, predictions=0.0)),
    "onnx-int8": Form(_open_onnx(INT8_FILE), Allowance(with_trained=False, logits=0.05, predictions=5e-4)),
}
"""All forms by their names in the manifest; docs/ONNX.md explains the allowances."""
