"""`model.json` of an exported folder: the integer network, where it comes from, and vectors to try every form with."""

import base64
import binascii
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

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
from kilonet.network.operations import Convolution, MaxPooling, Shape
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded, write_atomically
from kilonet.utils.schema import Schema, first_complaint

DESCRIPTION_FILE = "model.json"
_MAXIMUM_BYTES = 64 << 20

Int8 = Annotated[int, Field(ge=-127, le=127)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
UInt8 = Annotated[int, Field(ge=0, le=255)]


class _Numbers(Schema, strict=False):
    multiplier: tuple[Int32, ...]
    shift: tuple[UInt8, ...]
    offset: tuple[Int64, ...]


class _Operation(Schema, strict=False):
    kind: Literal["convolution", "max-pool", "average-pool"]
    channels_in: Annotated[int, Field(ge=1)] = 1
    channels_out: Annotated[int, Field(ge=1)] = 1
    kernel: Annotated[int, Field(ge=1)] = 1
    padding: Annotated[int, Field(ge=0)] = 0
    groups: Annotated[int, Field(ge=1)] = 1
    relu: bool = False
    weights: tuple[Int8, ...] = ()
    bias: tuple[Int32, ...] = ()
    pad: tuple[UInt8, ...] = ()
    skip: tuple[Int32, ...] | None = None
    output: _Numbers | None = None
    size: Annotated[int, Field(ge=1)] = 1


class _Vector(Schema, strict=False):
    pixels: str
    logits: tuple[Int32, ...]


class _Description(Schema, strict=False):
    format: Literal["kilonet export"] = "kilonet export"
    specification: Literal[1] = 1
    model: ModelSection
    model_sha256: str
    fraction_bits: Annotated[int, Field(ge=0, le=16)]
    operations: tuple[_Operation, ...]
    vectors: tuple[_Vector, ...]
    forms: dict[str, dict[str, int | None]]


@dataclass(frozen=True, eq=False)
class Export:
    """What an exported folder holds."""

    section: ModelSection
    model_sha256: str
    """SHA-256 of the model file that it was made from."""
    network: IntegerNetwork
    pixels: Pixels
    """Stored vectors, uint8 (N, channels, rows, columns)."""
    logits: NDArray[np.int32]
    """What the reference says of them, int32 (N, classes)."""
    forms: dict[str, dict[str, int | None]]
    """Each form's figures, such as its bytes of flash and RAM."""


def write(folder: Path, export: Export) -> None:
    """Write an export's `model.json`, atomically."""
    entries = [entry(operation) for operation in export.network.operations]
    vectors = [
        {"pixels": base64.b64encode(image.tobytes()).decode("ascii"), "logits": row.tolist()}
        for image, row in zip(export.pixels, export.logits, strict=True)
    ]
    table = {
        "format": "kilonet export",
        "specification": SPECIFICATION,
        "model": export.section.model_dump(mode="json", exclude_none=True),
        "model_sha256": export.model_sha256,
        "fraction_bits": export.network.fraction_bits,
        "forms": export.forms,
        "operations": entries,
        "vectors": vectors,
    }
    write_atomically(folder / DESCRIPTION_FILE, (json.dumps(table) + "\n").encode())


def read(folder: Path) -> Export:
    """Read an exported folder's `model.json`.

    Raises:
        KilonetError: there is none, or it is damaged; one line.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise KilonetError(f"{folder}: no {DESCRIPTION_FILE} in this folder; is it one that 'kilonet export' wrote?")
    content = read_bounded(path, _MAXIMUM_BYTES, "an export's description")
    try:
        return _export(_Description.model_validate_json(content))
    except ValidationError as error:
        reason = first_complaint(error)
    except (KilonetError, ValueError, OverflowError) as error:
        reason = str(error)
    raise KilonetError(f"{path}: not a usable description: {reason}")


def entry(operation: IntegerOperation) -> dict[str, Any]:
    """Return an operation as JSON holds it, its weights row after row."""
    match operation:
        case IntegerMaxPooling(MaxPooling(size)):
            return {"kind": "max-pool", "size": size}
        case IntegerAveragePooling(output):
            return {"kind": "average-pool", "output": _numbers(output)}
        case IntegerConvolution():
            shape = operation.operation
            names = ("channels_in", "channels_out", "kernel", "padding", "groups")
            return {
                "kind": "convolution",
                **{name: getattr(shape, name) for name in names},
                "relu": operation.relu,
                "weights": operation.weights.flatten().tolist(),
                "bias": operation.bias.tolist(),
                "pad": operation.pad.tolist(),
                "skip": None if operation.skip is None else operation.skip.tolist(),
                "output": _numbers(operation.output),
            }


def _numbers(output: Requantisation) -> dict[str, list[int]]:
    return {name: getattr(output, name).tolist() for name in ("multiplier", "shift", "offset")}


def _export(table: _Description) -> Export:
    shape = table.model.input_shape
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
    pixels = [_image(vector.pixels, table.model.input_shape) for vector in table.vectors]
    scores = np.array([vector.logits for vector in table.vectors], np.int32).reshape(len(pixels), network.classes)
    images = np.array(pixels, np.uint8).reshape(-1, *table.model.input_shape)
    return Export(table.model, table.model_sha256, network, images, scores, table.forms)


def _operation(entry: _Operation, shape: Shape) -> IntegerOperation:
    if entry.kind == "max-pool":
        return IntegerMaxPooling(MaxPooling(entry.size))
    if entry.output is None:
        raise KilonetError("an operation lacks its output")
    if entry.kind == "average-pool":
        return IntegerAveragePooling(_requantisation(entry.output, shape[0]))
    inputs, outputs, kernel, groups = entry.channels_in, entry.channels_out, entry.kernel, entry.groups
    if inputs != shape[0] or groups not in (1, inputs) or outputs % groups or entry.padding not in (0, kernel // 2):
        raise KilonetError("a convolution does not fit its input")
    if entry.skip is not None and (outputs != inputs or entry.padding != (kernel - 1) / 2):
        raise KilonetError("a residual convolution does not fit its input")
    weights = _array(entry.weights, np.int8, outputs * (inputs // groups) * kernel**2)
    return IntegerConvolution(
        Convolution(inputs, outputs, kernel, entry.padding, groups),
        weights.reshape(outputs, inputs // groups, kernel, kernel),
        _array(entry.bias, np.int32, outputs),
        _array(entry.pad, np.uint8, inputs),
        entry.relu,
        _requantisation(entry.output, outputs),
        None if entry.skip is None else _array(entry.skip, np.int32, outputs),
    )


def _requantisation(numbers: _Numbers, channels: int) -> Requantisation:
    offset: Sums = _array(numbers.offset, np.int64, channels)
    return Requantisation(
        _array(numbers.multiplier, np.int32, channels), _array(numbers.shift, np.int32, channels), offset
    )


def _array(values: tuple[int, ...], dtype: type[Any], count: int) -> NDArray[Any]:
    if len(values) != count:
        raise KilonetError(f"a table has {len(values)} numbers, not {count}")
    return np.array(values, dtype)


def _image(text: str, shape: Shape) -> Pixels:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KilonetError("a vector's pixels are not base64") from None
    if len(content) != prod(shape):
        raise KilonetError(f"a vector has {len(content)} pixels, not {prod(shape)}")
    return np.frombuffer(content, np.uint8).reshape(shape)
