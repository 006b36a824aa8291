"""The manifest of an exported folder, `model.json`: all that its forms are written from.

It holds the integer network, the metadata of the trained model, the figures of each form and test vectors.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from kilonet.data.preprocessing import PreprocessingFacts, preprocessing_facts
from kilonet.export.c.header import FAMILIES
from kilonet.export.c.packages import PACKAGES
from kilonet.export.c.prefix import check_prefix
from kilonet.export.integer import (
    SPECIFICATION,
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Pixels,
    Requantisation,
    Sums,
)
from kilonet.models.metadata import NO_METADATA, Metadata, check_metadata
from kilonet.network.layers import MAXIMUM_STRIDE
from kilonet.network.operations import AveragePooling, Convolution, GlobalAveragePooling, MaxPooling, Shape
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import Fraction, Schema, first_complaint, shortened

MANIFEST_FILE = "model.json"
_MAXIMUM_BYTES = 64 << 20

Int8 = Annotated[int, Field(ge=-127, le=127)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
UInt8 = Annotated[int, Field(ge=0, le=255)]
# What the fields of a kilonet_operation in C hold.
_Channels = Annotated[int, Field(ge=1, le=(1 << 16) - 1)]
_Side = Annotated[int, Field(ge=1, le=255)]


class _RequantisationSchema(Schema, strict=False):
    multiplier: tuple[Int32, ...]
    shift: tuple[UInt8, ...]
    offset: tuple[Int64, ...]


class _OperationSchema(Schema, strict=False):
    kind: Literal["convolution", "max-pool", "average-pool"]
    channels_in: _Channels = 1
    channels_out: _Channels = 1
    kernel: _Side = 1
    padding: UInt8 = 0
    groups: _Channels = 1
    stride: Annotated[int, Field(ge=1, le=MAXIMUM_STRIDE)] = 1
    relu: bool = False
    weights: tuple[Int8, ...] = ()
    bias: tuple[Int32, ...] = ()
    pad: tuple[UInt8, ...] = ()
    skip: tuple[Int32, ...] | None = None
    output: _RequantisationSchema | None = None
    size: _Side | None = None
    """The side of a pool's windows. Without one an average pool is of the whole map."""


_KEYS: Mapping[str, frozenset[str]] = {
    "convolution": frozenset(_OperationSchema.model_fields) - {"size"},
    "max-pool": frozenset({"kind", "size"}),
    "average-pool": frozenset({"kind", "size", "output"}),
}
"""The keys that an operation of each kind may have."""


class _VectorSchema(Schema, strict=False):
    pixels: str
    logits: tuple[Int32, ...]


class _ManifestSchema(Schema, strict=False):
    format: Literal["kilonet export"] = "kilonet export"
    specification: Literal[1] = 1
    model: ModelSection
    preprocessing: PreprocessingFacts | None = None
    """What `model` and `metadata` say of it, for others to read."""
    data: Annotated[str, Field(max_length=4096)] | None = None
    data_sha256: Annotated[str, Field(max_length=64)] | None = None
    label_pattern: Annotated[str, Field(max_length=200)] | None = None
    model_sha256: Annotated[str, Field(max_length=64)]
    kilonet: Annotated[str, Field(max_length=100, pattern="^[0-9A-Za-z.+-]*$")] = ""
    name: Annotated[str, Field(max_length=1000)] = ""
    metadata: Metadata = NO_METADATA
    accuracies: dict[str, Fraction] = Field(default_factory=dict)
    prefix: Annotated[str, Field(max_length=100)] | None = None
    licence: Annotated[str, Field(max_length=100)] | None = None
    package: str | None = None
    family: str | None = None
    fraction_bits: Annotated[int, Field(ge=0, le=16)]
    operations: tuple[_OperationSchema, ...]
    vectors: tuple[_VectorSchema, ...]
    forms: dict[str, dict[str, int | None]]


@dataclass(frozen=True, eq=False)
class Manifest:
    """The content of an exported folder's `model.json`."""

    section: ModelSection
    model_sha256: str
    """SHA-256 of the exported model file."""
    network: IntegerNetwork
    pixels: Pixels
    """Images of the test vectors, uint8 (N, channels, rows, columns)."""
    logits: NDArray[np.int32]
    """Logits of the integer reference for these images, int32 (N, classes)."""
    forms: Mapping[str, Mapping[str, int | None]]
    """Figures of each form in the folder, such as bytes of flash and RAM, by the form's name."""
    data: str | None = None
    """The data on which the model was exported, as `load_data` takes them; None if they are not known."""
    data_sha256: str | None = None
    """The fingerprint of these data."""
    label_pattern: str | None = None
    """The regular expression that found their labels in the names of files, if they need one."""
    metadata: Metadata = NO_METADATA
    """The exported model's: class names, kind of images, calibration."""
    accuracies: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the test images that a form states about itself, by the form's name."""
    name: str = ""
    """The model's name on the page."""
    prefix: str | None = None
    """What the names of the C form begin with; None without a C form, or with one of a version without a choice."""
    licence: str | None = None
    """The model's licence, which the C form states; None if it is not known."""
    package: str | None = None
    """The package that the C form is, of `PACKAGES`; None if its files lie in the folder itself."""
    family: str | None = None
    """The processors that the C form is for, a name of `FAMILIES`; None if it is for all."""
    kilonet: str = ""
    """The version of Kilonet that wrote the folder; empty for versions that did not say so."""


def manifest_content(manifest: Manifest) -> bytes:
    """Return the content of `model.json`."""
    entries = [operation_as_json(operation) for operation in manifest.network.operations]
    vectors = [
        {"pixels": base64.b64encode(image.tobytes()).decode("ascii"), "logits": row.tolist()}
        for image, row in zip(manifest.pixels, manifest.logits, strict=True)
    ]
    digits = manifest.metadata.reads_digits(manifest.section.input_shape, manifest.section.classes)
    preprocessing = preprocessing_facts(manifest.section, reads_digits=digits)
    table = {
        "format": "kilonet export",
        "specification": SPECIFICATION,
        "model": manifest.section.model_dump(mode="json", exclude_none=True),
        "preprocessing": None if preprocessing is None else preprocessing.model_dump(mode="json"),
        "model_sha256": manifest.model_sha256,
        "kilonet": manifest.kilonet,
        "name": manifest.name,
        "metadata": manifest.metadata.model_dump(mode="json", exclude_none=True),
        "data": manifest.data,
        "data_sha256": manifest.data_sha256,
        "label_pattern": manifest.label_pattern,
        "accuracies": dict(manifest.accuracies),
        "fraction_bits": manifest.network.fraction_bits,
        "forms": {form: dict(figures) for form, figures in manifest.forms.items()},
        "operations": entries,
        "vectors": vectors,
    }
    # Not for a folder without the C form, so that those of earlier versions are as this one writes them.
    if manifest.prefix is not None:
        table |= {"prefix": manifest.prefix, "licence": manifest.licence}
    if manifest.package is not None:
        table["package"] = manifest.package
    if manifest.family is not None:
        table["family"] = manifest.family
    return (json.dumps(table) + "\n").encode()


def same_network(network: IntegerNetwork, other: IntegerNetwork) -> bool:
    """Return whether two integer networks are the same number by number."""
    first, second = (
        (one.input_shape, one.fraction_bits, [operation_as_json(operation) for operation in one.operations])
        for one in (network, other)
    )
    return first == second


def read_manifest(folder: Path) -> Manifest:
    """Read an exported folder's `model.json`.

    Raises:
        KilonetError: the folder or the file is missing, or the file is damaged.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise KilonetError(f"{folder}: no such folder; give one that 'kilonet export' wrote")
    if not path.is_file():
        raise KilonetError(f"{folder}: no {MANIFEST_FILE} in this folder; is it one that 'kilonet export' wrote?")
    content = read_bounded(path, _MAXIMUM_BYTES, "a manifest")
    try:
        return _manifest_of(_ManifestSchema.model_validate_json(content))
    except ValidationError as error:
        reason = first_complaint(error)
    except (KilonetError, ValueError, OverflowError) as error:
        reason = str(error)
    raise KilonetError(f"{path}: not a usable manifest: {reason}")


def operation_as_json(operation: IntegerOperation) -> dict[str, Any]:
    """Return the JSON object of an operation; its tables are flat lists in row-major order."""
    match operation:
        case IntegerMaxPooling(MaxPooling(size)):
            return {"kind": "max-pool", "size": size}
        case IntegerAveragePooling(pool, output):
            window = {"size": pool.size} if isinstance(pool, AveragePooling) else {}
            return {"kind": "average-pool", **window, "output": _requantisation_as_json(output)}
        case IntegerConvolution():
            shape = operation.operation
            names = ("channels_in", "channels_out", "kernel", "padding", "groups")
            return {
                "kind": "convolution",
                **{name: getattr(shape, name) for name in names},
                **({} if shape.stride == 1 else {"stride": shape.stride}),
                "relu": operation.relu,
                "weights": operation.weights.flatten().tolist(),
                "bias": operation.bias.tolist(),
                "pad": operation.pad.tolist(),
                "skip": None if operation.skip is None else operation.skip.tolist(),
                "output": _requantisation_as_json(operation.output),
            }


def _requantisation_as_json(output: Requantisation) -> dict[str, list[int]]:
    return {name: getattr(output, name).tolist() for name in ("multiplier", "shift", "offset")}


def _manifest_of(table: _ManifestSchema) -> Manifest:
    shape = table.model.input_shape
    check_metadata(table.metadata, shape, table.model.classes)
    if table.prefix is not None:
        check_prefix(table.prefix)
    if table.package is not None and (table.package not in PACKAGES or table.prefix is None or not table.vectors):
        raise KilonetError(f"its package {shortened(table.package)} is unknown, or lacks a prefix or test vectors")
    if table.family is not None and (table.family not in FAMILIES or table.prefix is None):
        raise KilonetError(f"its family of processors {shortened(table.family)} is unknown, or lacks a prefix")
    operations: list[IntegerOperation] = []
    for entry in table.operations:
        operation = _operation(entry, shape)
        shape = operation.output_shape(shape)
        if min(shape) < 1:
            raise KilonetError("an operation leaves nothing of the image")
        operations.append(operation)
    if not operations or shape != (table.model.classes, 1, 1):
        raise KilonetError("its operations do not end in one value a class")
    network = IntegerNetwork(table.model.input_shape, tuple(operations), table.fraction_bits)
    pixels = [_decoded_pixels(vector.pixels, table.model.input_shape) for vector in table.vectors]
    scores = np.array([vector.logits for vector in table.vectors], np.int32).reshape(len(pixels), network.classes)
    images = np.array(pixels, np.uint8).reshape(-1, *table.model.input_shape)
    return Manifest(
        table.model,
        table.model_sha256,
        network,
        images,
        scores,
        table.forms,
        metadata=table.metadata,
        data=table.data,
        data_sha256=table.data_sha256,
        label_pattern=table.label_pattern,
        accuracies=table.accuracies,
        name=table.name,
        prefix=table.prefix,
        licence=table.licence,
        package=table.package,
        family=table.family,
        kilonet=table.kilonet,
    )


def _operation(entry: _OperationSchema, shape: Shape) -> IntegerOperation:
    if foreign := entry.model_fields_set - _KEYS[entry.kind]:
        raise KilonetError(f"an operation of kind {entry.kind} has no '{min(foreign)}'")
    if entry.kind == "max-pool":
        if entry.size is None:
            raise KilonetError("a max-pool lacks its size")
        return IntegerMaxPooling(MaxPooling(entry.size))
    if entry.output is None:
        raise KilonetError("an operation lacks its output")
    if entry.kind == "average-pool":
        pool = GlobalAveragePooling() if entry.size is None else AveragePooling(entry.size)
        return IntegerAveragePooling(pool, _requantisation(entry.output, shape[0]))
    inputs, outputs, kernel, groups = entry.channels_in, entry.channels_out, entry.kernel, entry.groups
    if inputs != shape[0] or groups not in (1, inputs) or outputs % groups or entry.padding not in (0, kernel // 2):
        raise KilonetError("a convolution does not fit its input")
    if entry.skip is not None and (outputs != inputs or entry.padding != (kernel - 1) / 2 or entry.stride != 1):
        raise KilonetError("a residual convolution does not fit its input")
    weights = _array(entry.weights, np.int8, outputs * (inputs // groups) * kernel**2)
    return IntegerConvolution(
        Convolution(inputs, outputs, kernel, entry.padding, groups, entry.stride),
        weights.reshape(outputs, inputs // groups, kernel, kernel),
        _array(entry.bias, np.int32, outputs),
        _array(entry.pad, np.uint8, inputs),
        entry.relu,
        _requantisation(entry.output, outputs),
        None if entry.skip is None else _array(entry.skip, np.int32, outputs),
    )


def _requantisation(numbers: _RequantisationSchema, channels: int) -> Requantisation:
    offset: Sums = _array(numbers.offset, np.int64, channels)
    return Requantisation(
        _array(numbers.multiplier, np.int32, channels), _array(numbers.shift, np.int32, channels), offset
    )


def _array(values: tuple[int, ...], dtype: type[Any], count: int) -> NDArray[Any]:
    if len(values) != count:
        raise KilonetError(f"a table has {len(values)} numbers, not {count}")
    return np.array(values, dtype)


def _decoded_pixels(text: str, shape: Shape) -> Pixels:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KilonetError("a vector's pixels are not base64") from None
    if len(content) != prod(shape):
        raise KilonetError(f"a vector has {len(content)} pixels, not {prod(shape)}")
    return np.frombuffer(content, np.uint8).reshape(shape)
