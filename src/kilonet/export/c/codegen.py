"""Generate the C99 form: the tables of an integer network, beside a runtime that executes them.

A pixel's channels lie side by side in memory, so weights are stored [output][row][column][input]. A second table has
them in blocks for processors with suitable vector instructions; the preprocessor keeps one of the two. The bytes that
the tables take on a microcontroller are counted here exactly.
"""

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.preprocessing import PreprocessingFacts, preprocessing_facts
from kilonet.export.integer import (
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Requantisation,
    rounding_half,
)
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.network.c_ram import Computed, OperationMemory, c_ram_bytes, memory_of, scratch_bytes
from kilonet.network.operations import AveragePooling, MaxPooling, Shape
from kilonet.network.section import ModelSection

RUNTIME_FILES = (
    *("kilonet_runtime.h", "kilonet_runtime.c", "kilonet_vectors.c", "kilonet_resize.h", "kilonet_resize.c"),
    *("main.c", "Makefile"),
)
LIBRARY_FILES = ("model.c", "kilonet_runtime.c", "kilonet_vectors.c")
"""The files to compile in order to classify from other code."""
_BLOCK = 16
"""KILONET_BLOCK of kilonet_runtime.h where vectors execute the network."""
_BEYOND = 4
"""KILONET_BEYOND of kilonet_runtime.h."""
_OPERATION_BYTES = 68
"""Size of a kilonet_operation where pointers take four bytes."""
_PLAIN_BYTES = frozenset(f"{string.ascii_letters}{string.digits} .-_".encode())
_FIELDS = (
    *("weights", "bias", "multiplier", "shift", "offset", "skip", "pad", "state", "pixel", "memory", "sums"),
    *("memory_size", "row_size", "inputs", "outputs", "rows", "columns", "multiple", "kind", "window", "padding"),
    *("relu", "between"),
)
"""The fields of a kilonet_operation in order, in which C++ wants them initialised."""


def memory_bytes(network: IntegerNetwork) -> int:
    """Return the bytes of RAM for pixels, logits and working memory, without the stack."""
    return c_ram_bytes(_operations(network), network.input_shape, network.classes)


def _operations(network: IntegerNetwork) -> Iterator[tuple[Computed, Shape]]:
    """Yield the operations in order, each with its input's shape."""
    for operation, shape in network.placed:
        yield operation.operation, shape


def weight_bytes(network: IntegerNetwork) -> int:
    """Return the bytes of all weights."""
    return sum(operation.weights.size for operation in network.operations if isinstance(operation, IntegerConvolution))


def table_bytes(network: IntegerNetwork) -> int:
    """Return the bytes of all other tables: biases, multipliers, shifts and the operations themselves."""
    return sum(
        _OPERATION_BYTES
        + sum(table.values.size * table.bytes for table in _tables(operation) if table.name != "weights")
        for operation in network.operations
    )


def sources(network: IntegerNetwork, section: ModelSection, metadata: Metadata = NO_METADATA) -> dict[str, str]:
    """Return the content of the form's files by name.

    Args:
        network: the integer network.
        section: the network that it was made from; the header states its preprocessing.
        metadata: the model's metadata, which the header states.
    """
    runtime = {
        name: (files("kilonet.export.c") / "runtime" / name).read_text(encoding="utf-8") for name in RUNTIME_FILES
    }
    return {**runtime, "model.h": _header(network, section, metadata), "model.c": _tables_file(network)}


@dataclass(frozen=True, eq=False)
class _CTable:
    name: str
    c_type: str
    values: NDArray[Any]
    in_blocks: NDArray[Any] | None = None
    """The values in the order for KILONET_BLOCK 16, if it differs."""

    @property
    def bytes(self) -> int:
        """Size of one value."""
        return int(self.c_type.removeprefix("u").removeprefix("int").removesuffix("_t")) // 8


def _tables(operation: IntegerOperation) -> Iterator[_CTable]:
    """Yield the tables of an operation; the runtime gets a null pointer for any other."""
    if isinstance(operation, IntegerConvolution):
        yield _CTable("weights", "int8_t", operation.weights.transpose(0, 2, 3, 1), _in_blocks(operation))
        yield _CTable("bias", "int32_t", operation.bias)
        if operation.skip is not None:
            yield _CTable("skip", "int32_t", operation.skip)
        if operation.operation.padding:
            yield _CTable("pad", "uint8_t", operation.pad)
    if not isinstance(operation, IntegerMaxPooling):
        yield from _requantisation_tables(operation.output)


def _requantisation_tables(output: Requantisation) -> Iterator[_CTable]:
    yield _CTable("multiplier", "int16_t", output.multiplier)
    yield _CTable("shift", "uint8_t", output.shift)
    if not output.offset_is_rounding_half:
        yield _CTable("offset", "int64_t", output.offset - rounding_half(output.shift))


def _header(network: IntegerNetwork, section: ModelSection, metadata: Metadata) -> str:
    channels, rows, columns = network.input_shape
    reads_digits = metadata.reads_digits(network.input_shape, network.classes)
    preprocessing = preprocessing_facts(section, reads_digits=reads_digits)
    return f"""/* Written by kilonet export. C99; C++20 compiles it too.
 * The names are the same for every network: link only one to a program. */
#ifndef KILONET_MODEL_H
#define KILONET_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define KILONET_CHANNELS {channels}
#define KILONET_ROWS {rows}
#define KILONET_COLUMNS {columns}
#define KILONET_PIXELS {channels * rows * columns}
#define KILONET_CLASSES {network.classes}
/* A logit divided by two to this power is approximately the logit of the float network. */
#define KILONET_FRACTION_BITS {network.fraction_bits}
/* 1 if the images are digits as MNIST has them: light on black, 20 pixels long, the centre of mass in the middle. */
#define KILONET_READS_DIGITS {int(reads_digits)}
{_preprocessing_macros(preprocessing)}{_names_macro(metadata)}{_calibration_macros(metadata)}
/* Classifies one image: pixels [channel][row][column] to one logit for each class; the largest is that of the predicted
 * class. Working memory is static, so calls must not overlap. */
void kilonet_classify(const uint8_t pixels[KILONET_PIXELS], int32_t logits[KILONET_CLASSES]);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _preprocessing_macros(facts: PreprocessingFacts | None) -> str:
    """Return macros of how a picture becomes the pixels; '' for a network that takes no pictures."""
    if facts is None:
        return ""
    digit = ""
    if facts.resize is None:
        digit = "\n * Here the picture has to show a digit as above: find it, and lay it out so, before or after."
    channels = "grey levels" if facts.channels == "grey" else "red, green and blue levels, a channel each"
    red, green, blue = facts.grey_weights
    return f"""
/* How a picture of any size becomes the pixels, {channels} from 0 to 255: kilonet_resize.h does it.{digit}
 * Of another shape it is cropped in its middle, padded, or squashed. Each pixel is a mean weighted by a triangle twice
 * as wide as the pixel, or as one of the picture where it is enlarged. After that, the grey level of a colour is
 * ({red} red + {green} green + {blue} blue) / 65536. */
#define KILONET_CROP 0
#define KILONET_PAD 1
#define KILONET_SQUASH 2
#define KILONET_RESIZE KILONET_{(facts.resize or "crop").upper()}
/* The level of each channel around a padded picture. */
#define KILONET_PADDING {_braces(facts.padding)}
/* Mean and standard deviation of the training pixels of each channel, as fractions of 255. The weights contain them:
 * give kilonet_classify the pixels as they are. */
#define KILONET_MEAN {_braces(facts.mean)}
#define KILONET_STD {_braces(facts.std)}
"""


def _braces(values: Iterable[float]) -> str:
    return f"{{{', '.join(map(repr, values))}}}"


def _names_macro(metadata: Metadata) -> str:
    """Return the macro of the classes' names, which takes no memory unless it is used; '' if they have none."""
    if metadata.names is None:
        return ""
    names = ", \\\n     ".join(map(_c_string, metadata.names))
    return f"""
/* The names of the classes in UTF-8: static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES; */
#define KILONET_CLASS_NAMES \\
    {{{names}}}
"""


def _calibration_macros(metadata: Metadata) -> str:
    """Return macros of the calibration, which only code with floating point can use; '' for none."""
    calibration = metadata.calibration
    if calibration is None:
        return ""
    macros = f"""
/* With l = logits / 2^KILONET_FRACTION_BITS, the probabilities are softmax(l / KILONET_TEMPERATURE). A class of a lower
 * probability than KILONET_SURE_FROM is uncertain. */
#define KILONET_TEMPERATURE {calibration.temperature!r}
#define KILONET_SURE_FROM {calibration.sure_from!r}
/* 1 if such an answer, or one for an image unlike those of the training, is none of the classes. */
#define KILONET_REJECTS {int(bool(calibration.rejects))}
"""
    if calibration.energy_from is None:
        return macros
    return f"""{macros}/* An image is unlike those of the training if log(sum(exp(l))) is below this. */
#define KILONET_ENERGY_FROM ({calibration.energy_from!r})
"""


def _c_string(text: str) -> str:
    """Return a C string of a name. All but letters, figures, blanks, dots and hyphens becomes an octal escape.

    So no name can end the string, begin a trigraph or continue an escape.
    """
    return '"' + "".join(chr(byte) if byte in _PLAIN_BYTES else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _tables_file(network: IntegerNetwork) -> str:
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    scratch = f"KILONET_BLOCK == 1 ? {scratch_bytes(kept)} : {2 * (max(memory.map for memory in kept) + _BEYOND)}"
    results = max(memory.results for memory in kept)
    sums = results + sum(memory.sums for memory in kept)
    parts = [
        '/* Written by kilonet export. */\n#include "model.h"\n\n#include "kilonet_runtime.h"\n',
        *(_definition(table, number) for number, table in _numbered_tables(network)),
        f"static kilonet_state states[{len(kept)}];",
        f"static uint8_t memory[{sum(memory.pixel + memory.window for memory in kept)}];",
        f"static int32_t sums[{sums}];",
        f"static uint8_t scratch[{scratch}];",
        f"\nstatic const kilonet_operation operations[{len(kept)}] = {{",
        *_operation_initialisers(network, kept, results),
        "};\n",
        "void kilonet_classify(const uint8_t pixels[KILONET_PIXELS], int32_t logits[KILONET_CLASSES])\n{",
        f"    kilonet_run(operations, {len(kept)}, pixels, scratch, sums, logits);\n}}\n",
    ]
    return "\n".join(parts)


def _numbered_tables(network: IntegerNetwork) -> Iterator[tuple[int, _CTable]]:
    for number, operation in enumerate(network.operations, 1):
        for table in _tables(operation):
            yield number, table


def _definition(table: _CTable, number: int) -> str:
    plain = _array(table, number, table.values)
    if table.in_blocks is None:
        return plain
    return f"#if KILONET_BLOCK == {_BLOCK}\n{_array(table, number, table.in_blocks)}#else\n{plain}#endif\n"


def _array(table: _CTable, number: int, values: NDArray[Any]) -> str:
    literals = [_literal(int(value), table.bytes) for value in values.flatten()]
    return f"static const {table.c_type} {table.name}_{number}[{len(literals)}] = {{\n{_wrapped_lines(literals)}\n}};\n"


def _in_blocks(operation: IntegerConvolution) -> NDArray[np.int8]:
    """Return weights in the order of blocks in kilonet_runtime.h, in groups as a dense convolution with zeros."""
    weights = _dense(operation).transpose(0, 2, 3, 1)
    outputs, kernel, *_ = weights.shape
    rows = weights.reshape(outputs, kernel, -1)
    filled = np.pad(rows, ((0, -outputs % _BLOCK), (0, 0), (0, -rows.shape[2] % 4)))
    lanes = filled.reshape(-1, 2, _BLOCK // 2, kernel, filled.shape[2] // 4, 4)
    return lanes.transpose(0, 3, 4, 2, 1, 5)


def _dense(operation: IntegerConvolution) -> NDArray[np.int8]:
    weights, groups = operation.weights, operation.operation.groups
    if groups == 1:
        return weights
    dense = np.zeros((len(weights), groups, *weights.shape[2:]), np.int8)
    outputs = np.arange(len(weights))
    dense[outputs, outputs // (len(weights) // groups)] = weights[:, 0]
    return dense


def _literal(value: int, size: int) -> str:
    # C has no literal for the smallest int32: in -2147483648 the literal 2147483648 does not fit.
    if size == 4 and value == -(1 << 31):
        return "-2147483647 - 1"
    return f"{value}LL" if size == 8 else str(value)


def _wrapped_lines(values: Iterable[str]) -> str:
    lines, line = [], "   "
    for value in values:
        if len(line) + len(value) + 2 > 118:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line])


def _operation_initialisers(network: IntegerNetwork, kept: list[OperationMemory], sums: int) -> Iterator[str]:
    place = 0
    for number, ((operation, shape), memory) in enumerate(zip(network.placed, kept, strict=True), 1):
        fields = {table.name: f"{table.name}_{number}" for table in _tables(operation)}
        fields |= {"state": f"states + {number - 1}", "pixel": f"memory + {place}"}
        if memory.window:
            fields |= {"memory": f"memory + {place + memory.pixel}", "memory_size": str(memory.window)}
        if memory.sums:
            fields["sums"] = f"sums + {sums}"
        fields |= _numeric_fields(operation, shape)
        yield "    {" + ", ".join(f".{name} = {fields[name]}" for name in _FIELDS if name in fields) + "},"
        place += memory.pixel + memory.window
        sums += memory.sums


def _numeric_fields(operation: IntegerOperation, shape: Shape) -> dict[str, str]:
    channels, rows, columns = shape
    outputs = operation.output_shape(shape)[0]
    fields: dict[str, Any] = {"inputs": channels, "outputs": outputs, "rows": rows, "columns": columns}
    match operation:
        case IntegerConvolution():
            kernel = operation.operation
            multiple = outputs // channels if kernel.groups > 1 else 0
            fields |= {"kind": "KILONET_CONVOLUTION", "window": kernel.kernel, "padding": kernel.padding}
            fields |= {"multiple": multiple, "row_size": (columns + 2 * kernel.padding) * channels}
            fields["relu"] = int(operation.relu)
            fields |= {"between": kernel.stride - 1} if kernel.stride > 1 else {}
        case IntegerMaxPooling(MaxPooling(size)):
            fields |= {"kind": "KILONET_MAX_POOL", "window": size}
        case IntegerAveragePooling(pool):
            fields["kind"] = "KILONET_AVERAGE_POOL"
            fields |= {"window": pool.size} if isinstance(pool, AveragePooling) else {}
    return {name: str(value) for name, value in fields.items()}
