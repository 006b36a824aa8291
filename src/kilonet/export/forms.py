"""The forms that an exported folder may hold: how each is written and run, and how much its logits may differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from kilonet.export.c.bindings import CompiledC
from kilonet.export.c.codegen import sources
from kilonet.export.c.header import GENERIC, CFacts
from kilonet.export.c.packages import PackageFacts, first_sure, packaged, source_path
from kilonet.export.c.prefix import C_FILES, DEFAULT_PREFIX
from kilonet.export.html.browser import PageRunner
from kilonet.export.html.page import PAGE_FILE, PageFacts, page_html
from kilonet.export.integer import Pixels
from kilonet.export.manifest import MANIFEST_FILE, Manifest
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
    tolerance: float
    """Logits that differ by less count as equal."""
    of_spread: bool
    """Whether the tolerance is in units of the standard deviation of the expected logits."""
    logits: float
    """The fraction of all logits that may be off by the tolerance or more."""
    predictions: float
    """The fraction of predictions that may differ."""


@dataclass(frozen=True)
class Form:
    """How to write a form, how to run it and what to expect of it."""

    files: tuple[str, ...]
    """Names of its files; of the C form those with the default prefix."""
    write: Callable[[Manifest, Callable[[], Model]], dict[str, bytes]]
    """Returns the content of the form's files by name. The second argument returns the trained model, which only some
    forms need. Raises CannotRunHere if this machine lacks a library for it."""
    open: Callable[[Path, Manifest], FormRunner]
    """Raises CannotRunHere if this machine lacks a program or library for it, KilonetError if the folder is damaged."""
    allowance: Allowance | None = None
    """None: every logit must equal the integer reference's."""


def trained_model(folder: Path, manifest: Manifest) -> Model:
    """Return the trained network that the float ONNX form is compared with.

    Raises:
        KilonetError: its file is missing, damaged, or not the model that was exported.
    """
    model = load_model(folder / MODEL_FILE)
    if model.sha256 != manifest.model_sha256:
        raise KilonetError(f"{folder / MODEL_FILE}: not the model that was exported to this folder; export it again")
    if (model.section, model.metadata) != (manifest.section, manifest.metadata):
        raise KilonetError(f"{folder / MANIFEST_FILE}: describes another model than {MODEL_FILE}; export it again")
    return model


def _write_c(manifest: Manifest, _: Callable[[], Model]) -> dict[str, bytes]:
    facts = CFacts(
        _prefix(manifest),
        manifest.model_sha256,
        manifest.accuracies.get("c"),
        manifest.licence,
        manifest.family or GENERIC,
    )
    texts = sources(manifest.network, manifest.section, manifest.metadata, facts)
    if manifest.package is not None:
        place = first_sure(manifest.logits, manifest.network.fraction_bits, manifest.metadata)
        stored = PackageFacts(
            facts.prefix, manifest.licence, image=manifest.pixels[place], label=int(manifest.logits[place].argmax())
        )
        texts = packaged(manifest.package, texts, manifest.network, stored)
    return {name: text.encode() for name, text in texts.items()}


def _write_html(manifest: Manifest, _: Callable[[], Model]) -> dict[str, bytes]:
    facts = PageFacts(manifest.name, manifest.section.parameters, manifest.accuracies.get("html"))
    return {PAGE_FILE: page_html(manifest.network, manifest.section, facts, manifest.metadata).encode()}


def _write_float(manifest: Manifest, trained: Callable[[], Model]) -> dict[str, bytes]:
    # Imported only here and below, so that the other forms do not need the libraries of the extra `onnx`.
    from kilonet.export.onnx.float32 import float_graph  # noqa: PLC0415

    graph = float_graph(trained(), manifest.accuracies.get("onnx"))
    return {FLOAT_FILE: graph.SerializeToString(deterministic=True)}


def _write_int8(manifest: Manifest, trained: Callable[[], Model]) -> dict[str, bytes]:
    from kilonet.export.onnx.int8 import int8_graph  # noqa: PLC0415

    model = trained()
    graph = int8_graph(model, manifest.network, manifest.accuracies.get("onnx-int8"))
    # The trained model stands beside the two graphs, which are always written together.
    return {INT8_FILE: graph.SerializeToString(deterministic=True), MODEL_FILE: model.content}


def _open_c(folder: Path, manifest: Manifest) -> FormRunner:
    return CompiledC(
        folder / source_path("", manifest.package),
        manifest.section.input_shape,
        manifest.section.classes,
        _prefix(manifest),
    )


def _prefix(manifest: Manifest) -> str:
    return manifest.prefix or DEFAULT_PREFIX


def _open_onnx(name: str) -> Callable[[Path, Manifest], FormRunner]:
    def open_file(folder: Path, manifest: Manifest) -> FormRunner:
        from kilonet.export.onnx.session import OnnxSession  # noqa: PLC0415

        return OnnxSession(folder / name, manifest.section.input_shape, manifest.section.classes)

    return open_file


def _open_html(folder: Path, _: Manifest) -> FormRunner:
    return PageRunner(folder / PAGE_FILE)


FORMS: Mapping[str, Form] = {
    "c": Form(C_FILES, _write_c, _open_c),
    "html": Form((PAGE_FILE,), _write_html, _open_html),
    "onnx": Form(
        (FLOAT_FILE,),
        _write_float,
        _open_onnx(FLOAT_FILE),
        Allowance(with_trained=True, tolerance=1e-4, of_spread=False, logits=0.0, predictions=0.0),
    ),
    "onnx-int8": Form(
        (INT8_FILE, MODEL_FILE),
        _write_int8,
        _open_onnx(INT8_FILE),
        Allowance(with_trained=False, tolerance=0.01, of_spread=True, logits=0.05, predictions=5e-4),
    ),
}
"""All forms by their names in the manifest; docs/ONNX.md explains the allowances."""
