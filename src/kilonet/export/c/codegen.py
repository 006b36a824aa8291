"""Generate the C99 form: the tables of an integer network, beside a runtime that executes them.

A pixel's channels lie side by side in memory, so weights are stored [output][row][column][input]. A second table has
them in blocks for processors with suitable vector instructions; the preprocessor keeps one of the two. The bytes that
the tables take on a microcontroller are counted here exactly.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.header import NO_FACTS, CFacts, TableFacts, header, int32_literal
from kilonet.export.c.prefix import RUNTIME_FILES, file_name, runtime_texts, with_prefix
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
from kilonet.network.c_ram import Computed, c_ram_bytes, memory_of, scratch_bytes, sum_count
from kilonet.network.operations import AveragePooling, MaxPooling, Shape
from kilonet.network.section import ModelSection

LIBRARY_FILES = ("model.c", "kilonet_runtime.c", "kilonet_vectors.c")
"""The files to compile in order to classify from other code, by their names with the default prefix."""
_BLOCK = 16
"""KILONET_BLOCK of kilonet_runtime.h where vectors execute the network."""
_BEYOND = 4
"""KILONET_BEYOND of kilonet_runtime.h."""
_OPERATION_BYTES = 64
"""Size of a kilonet_operation where pointers take four bytes."""
_FIELDS = (
    *("weights", "bias", "multiplier", "shift", "offset", "skip", "pad", "pixel", "memory", "sums"),
    *("memory_size", "row_size", "inputs", "outputs", "rows", "columns", "multiple", "kind", "window", "padding"),
    *("relu", "between"),
)
"""The fields of a kilonet_operation in order, in which C++ wants them initialised."""
_FUNCTIONS = """static kilonet_work work_of(kilonet_state *state)
{
    const kilonet_work work = {state->positions, state->sums, state->memory, state->scratch};
    return work;
}

void kilonet_begin(kilonet_state *state)
{
    const kilonet_work work = work_of(state);
    kilonet_start(kilonet_operations, KILONET_OPERATIONS, &work);
}

int kilonet_row(kilonet_state *state, const uint8_t row[KILONET_ROW_BYTES], int32_t logits[KILONET_CLASSES])
{
    const kilonet_work work = work_of(state);
    const kilonet_pixels pixels = {row, KILONET_COLUMNS, KILONET_CHANNELS, 1};
    return kilonet_feed(kilonet_operations, KILONET_OPERATIONS, &work, &pixels, logits);
}

void kilonet_classify_with(kilonet_state *state, const uint8_t *pixels, int32_t logits[KILONET_CLASSES])
{
    const kilonet_work work = work_of(state);
    const kilonet_pixels image = {pixels, PLANE, 1, PLANE};
    kilonet_start(kilonet_operations, KILONET_OPERATIONS, &work);
    (void)kilonet_feed(kilonet_operations, KILONET_OPERATIONS, &work, &image, logits);
}

void kilonet_classify(const uint8_t *pixels, int32_t logits[KILONET_CLASSES])
{
    static kilonet_state state;
    kilonet_classify_with(&state, pixels, logits);
}
"""


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


def sources(
    network: IntegerNetwork, section: ModelSection, metadata: Metadata = NO_METADATA, facts: CFacts = NO_FACTS
) -> dict[str, str]:
    """Return the content of the form's files by name.

    Args:
        network: the integer network.
        section: the network that it was made from; the header states its preprocessing.
        metadata: the model's metadata, which the header states.
        facts: what else the header states, and the prefix of all names.
    """
    texts = dict(zip(RUNTIME_FILES, runtime_texts(), strict=True)) | {"model.c": _tables_file(network)}
    written = {file_name(name, facts.prefix): with_prefix(text, facts.prefix) for name, text in texts.items()}
    text = header(network, section, metadata, facts, _table_facts(network))
    return {**written, file_name("model.h", facts.prefix): text}


def _table_facts(network: IntegerNetwork) -> TableFacts:
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    return TableFacts(
        operations=len(kept),
        sums=sum_count(kept),
        memory=sum(memory.pixel + memory.window for memory in kept),
        scratch=scratch_bytes(kept),
        scratch_in_blocks=2 * (max(memory.map for memory in kept) + _BEYOND),
        state=memory_bytes(network) - prod(network.input_shape) - 4 * network.classes,
        flash=weight_bytes(network) + table_bytes(network),
        crc=_tables_crc(network, in_blocks=False),
        crc_in_blocks=_tables_crc(network, in_blocks=True),
    )


def _tables_crc(network: IntegerNetwork, *, in_blocks: bool) -> int:
    """Return the CRC-32 of all tables as kilonet_selftest.c computes it."""
    crc = 0
    for operation in network.operations:
        for table in _tables(operation):
            values = table.in_blocks if in_blocks and table.in_blocks is not None else table.values
            crc = zlib.crc32(np.ascontiguousarray(values, f"<i{table.bytes}").tobytes(), crc)
    return crc


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


def _tables_file(network: IntegerNetwork) -> str:
    parts = [
        '/* Written by kilonet export. */\n#include "model.h"\n',
        *(_definition(table, number) for number, table in _numbered_tables(network)),
        "const kilonet_operation kilonet_operations[KILONET_OPERATIONS] KILONET_FLASH = {",
        *_operation_initialisers(network),
        "};\n",
        _FUNCTIONS.replace("PLANE", str(prod(network.input_shape[1:]))),
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
    start = f"static const {table.c_type} {table.name}_{number}[{len(literals)}] KILONET_FLASH"
    return f"{start} = {{\n{_wrapped_lines(literals)}\n}};\n"


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
    return f"{value}LL" if size == 8 else int32_literal(value)


def _wrapped_lines(values: Iterable[str]) -> str:
    lines, line = [], "   "
    for value in values:
        if len(line) + len(value) + 2 > 118:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line])


def _operation_initialisers(network: IntegerNetwork) -> Iterator[str]:
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    place, sums = 0, max(memory.results for memory in kept)
    for number, ((operation, shape), memory) in enumerate(zip(network.placed, kept, strict=True), 1):
        fields = {table.name: f"{table.name}_{number}" for table in _tables(operation)}
        fields["pixel"] = str(place)
        if memory.window:
            fields |= {"memory": str(place + memory.pixel), "memory_size": str(memory.window)}
        if memory.sums:
            fields["sums"] = str(sums)
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
