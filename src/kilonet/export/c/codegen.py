"""Generate the C99 form: the tables of an integer network, beside a runtime that executes them.

A pixel's channels lie side by side in memory, so the taps of a window are [row][column][input]. The weights are written
in each order that kilonet_runtime.h lists, of which the preprocessor keeps the one that the processor's instructions
read. The bytes that the tables take on a microcontroller are counted here exactly.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.header import (
    BY_OUTPUT,
    FAMILIES,
    IN_BLOCKS,
    IN_FOURS,
    IN_PLANES,
    NO_FACTS,
    CFacts,
    TableFacts,
    alternatives,
    header,
    int32_literal,
)
from kilonet.export.c.prefix import RUNTIME_FILES, file_name, runtime_texts, with_prefix
from kilonet.export.integer import (
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    largest_sum,
)
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.network.c_ram import (
    OPERATION_BYTES,
    Computed,
    OperationMemory,
    c_ram_bytes,
    goes_by_planes,
    kept_bytes,
    memory_of,
    pairs_bytes,
    pairs_scratch_bytes,
    scratch_bytes,
    sum_count,
    vectors_scratch_bytes,
)
from kilonet.network.operations import AveragePooling, Convolution, MaxPooling, Shape, averaged_places
from kilonet.network.section import ModelSection

LIBRARY_FILES = ("model.c", "kilonet_runtime.c", "kilonet_vectors.c")
"""The files to compile in order to classify from other code, by their names with the default prefix."""
_BLOCK = 16
"""KILONET_BLOCK of kilonet_runtime.h where vectors execute the network."""
_BEYOND = 4
"""KILONET_BEYOND of kilonet_runtime.h."""
_ADDED = 128
"""What weights have added, so that they are bytes without a sign."""
_REQUANTISATION = "kilonet_requantisation"
_NARROW_SHIFTS = range(17, 32)
_NARROW_PRODUCT = 1 << 46
_NARROW_OFFSET = 1 << 31
_POINTERS = ("weights", "requantisation", "offset", "skip", "pad")
_FIELDS = (
    *(*_POINTERS, "pixel", "memory", "memory_size", "row_size"),
    *("inputs", "outputs", "rows", "columns", "multiple", "kind", "window", "padding", "relu", "between", "narrow"),
)
"""The fields of a kilonet_operation in order, in which C++ wants them initialised."""
_FUNCTIONS = """static kilonet_work work_of(kilonet_state *state)
{
    const kilonet_work work = {state->positions, state->sums, state->memory, (uint8_t *)state->scratch};
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
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    operation_bytes = OPERATION_BYTES[_index_bits(kept)]
    return sum(
        operation_bytes + sum(len(table.content()) for table in tables if table.name != "weights")
        for tables in _tables(network)
    )


def _index_bits(kept: Sequence[OperationMemory]) -> int:
    """Return the bits that an index in the working memory needs: 16 or 32."""
    largest = max(kept_bytes(kept), pairs_bytes(kept), sum_count(kept))
    return 16 if largest < 1 << 16 else 32


def sources(
    network: IntegerNetwork, section: ModelSection, metadata: Metadata = NO_METADATA, facts: CFacts = NO_FACTS
) -> dict[str, str]:
    """Return the content of the form's files by name.

    Args:
        network: the integer network.
        section: the network that it was made from; the header states its preprocessing.
        metadata: the model's metadata, which the header states.
        facts: what else the header states, the prefix of all names, and the processors that it is for.
    """
    orders = FAMILIES[facts.family]
    texts = dict(zip(RUNTIME_FILES, runtime_texts(), strict=True)) | {"model.c": _tables_file(network, orders)}
    written = {file_name(name, facts.prefix): with_prefix(text, facts.prefix) for name, text in texts.items()}
    text = header(network, section, metadata, facts, _table_facts(network, orders))
    return {**written, file_name("model.h", facts.prefix): text}


def _table_facts(network: IntegerNetwork, orders: Sequence[str]) -> TableFacts:
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    return TableFacts(
        operations=len(kept),
        index_bits=_index_bits(kept),
        sums=sum_count(kept),
        memory=kept_bytes(kept),
        pairs_memory=pairs_bytes(kept),
        scratch=scratch_bytes(kept),
        used=_used(network),
        pairs_scratch=pairs_scratch_bytes(kept),
        vectors_scratch=vectors_scratch_bytes(kept),
        depthwise_ring=max(_depthwise_rings(network), default=0),
        scratch_in_blocks=2 * (max(memory.map for memory in kept) + _BEYOND),
        state=memory_bytes(network) - prod(network.input_shape) - 4 * network.classes,
        flash=weight_bytes(network) + table_bytes(network),
        crcs={condition: _tables_crc(network, condition) for condition in orders},
    )


def _depthwise_rings(network: IntegerNetwork) -> Iterator[int]:
    for operation, shape in _operations(network):
        if isinstance(operation, Convolution) and operation.groups > 1:
            yield max(memory_of(operation, shape).window, shape[0])


def _used(network: IntegerNetwork) -> dict[str, bool]:
    """Return what a network has that parts of the runtime are for."""
    convolutions = [operation for operation in network.operations if isinstance(operation, IntegerConvolution)]
    kernels = [convolution.operation for convolution in convolutions]
    *hidden, last = (
        (operation, shape) for operation, shape in network.placed if not isinstance(operation, IntegerMaxPooling)
    )
    by_planes = [goes_by_planes(operation, shape) for operation, shape in _operations(network)]
    depthwise = [isinstance(kernel, Convolution) and kernel.groups > 1 for kernel, _ in _operations(network)]
    wide = [operation for operation, shape in hidden if not requantises_in_32_bits(operation, shape)]
    return {
        "DEPTHWISE": any(depthwise),
        "PLANES": any(by_planes),
        "OTHER_DEPTHWISE": depthwise != by_planes,
        "MULTIPLES": any(1 < kernel.groups < kernel.channels_out for kernel in kernels),
        "FEW_OUTPUTS": any(kernel.channels_out < 4 for kernel in kernels),
        "OFFSETS": any(_has_offset(operation) for operation, _ in (*hidden, last)),
        "OTHER_OFFSETS": any(
            _has_offset(operation) and not goes_by_planes(operation.operation, shape)
            for operation, shape in (*hidden, last)
        ),
        "PADDING": any(kernel.padding for kernel in kernels),
        "WIDE": bool(wide),
        "WIDE_OFFSETS": any(_has_offset(operation) for operation in (*wide, last[0])),
    }


def _tables_crc(network: IntegerNetwork, condition: str) -> int:
    """Return the CRC-32 of all tables as kilonet_selftest.c computes it."""
    crc = 0
    for tables in _tables(network):
        for table in tables:
            crc = zlib.crc32(table.content(condition), crc)
    return crc


@dataclass(frozen=True, eq=False)
class _CTable:
    name: str
    c_type: str
    values: NDArray[Any]
    """One value, or a structure's, an entry."""
    orders: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The values in other orders, by the condition of the preprocessor, in which it is to be asked."""

    def content(self, condition: str = "") -> bytes:
        """Return the bytes that the table takes on a microcontroller."""
        values = self.orders.get(condition, self.values)
        if self.c_type == _REQUANTISATION:
            return values.astype([("", "<i4"), ("", "<i2"), ("", "<u2")]).tobytes()
        return np.ascontiguousarray(values, np.dtype(self.c_type.removesuffix("_t")).newbyteorder("<")).tobytes()

    def literals(self, condition: str = "") -> list[str]:
        """Return the values in C."""
        values = self.orders.get(condition, self.values)
        if self.c_type == _REQUANTISATION:
            return [f"{{{', '.join(int32_literal(int(value)) for value in row)}}}" for row in values]
        return [
            f"{value}LL" if self.c_type == "int64_t" else int32_literal(value) for value in values.flatten().tolist()
        ]


def _tables(network: IntegerNetwork) -> Iterator[list[_CTable]]:
    """Yield the tables of each operation; the runtime gets a null pointer for any other."""
    last = network.operations[-1]
    for operation, shape in network.placed:
        is_narrow = operation is not last and requantises_in_32_bits(operation, shape)
        tables: list[_CTable] = []
        if isinstance(operation, IntegerConvolution):
            tables = [
                _weights_table(operation, shape),
                *_requantisation_tables(operation, operation.bias, is_narrow=is_narrow),
            ]
            if operation.skip is not None:
                tables.append(_CTable("skip", "int32_t", operation.skip))
            if operation.operation.padding:
                tables.append(_CTable("pad", "uint8_t", operation.pad))
        elif isinstance(operation, IntegerAveragePooling):
            bias = np.zeros_like(operation.output.shift)
            tables = list(_requantisation_tables(operation, bias, is_narrow=is_narrow))
        yield tables


def _has_offset(operation: IntegerConvolution | IntegerAveragePooling) -> bool:
    """Return whether an operation gets a table of offsets: always with a residual sum."""
    has_skip = isinstance(operation, IntegerConvolution) and operation.skip is not None
    return has_skip or not operation.output.offset_is_rounding_half


def _requantisation_tables(
    operation: IntegerConvolution | IntegerAveragePooling, bias: NDArray[np.int32], *, is_narrow: bool
) -> Iterator[_CTable]:
    output, has_offset, orders = operation.output, _has_offset(operation), dict[str, NDArray[Any]]()
    if is_narrow and not has_offset:
        scale = output.multiplier.astype(np.int64) << (32 - output.shift)
        halves = [(scale & 0xFFFF).astype(np.uint16).view(np.int16), scale >> 16 & 0xFFFF]
        orders[BY_OUTPUT] = orders[IN_FOURS] = np.rec.fromarrays([bias, *halves])
    fields = np.rec.fromarrays([bias, output.multiplier, output.shift])
    yield _CTable("requantisation", _REQUANTISATION, fields, orders)
    if has_offset:
        yield _CTable("offset", "int32_t" if is_narrow else "int64_t", output.offset)


def _places(operation: Convolution, shape: Shape) -> NDArray[np.int64]:
    """Return where in a ring the values of a window's first channel are, if the ring begins with the window."""
    channels, _, columns = shape
    row = (columns + 2 * operation.padding) * channels
    return np.arange(operation.kernel)[:, None] * row + np.arange(operation.kernel) * channels


def _weights_table(operation: IntegerConvolution, shape: Shape) -> _CTable:
    """Return the weights in the orders of kilonet_runtime.h."""
    outputs = len(operation.weights)
    taps = operation.weights.transpose(0, 2, 3, 1).reshape(outputs, -1)
    orders = {IN_BLOCKS: _in_blocks(operation).view(np.uint8)}
    if operation.operation.groups > 1:
        places = _places(operation.operation, shape).astype("<u2").view(np.uint8)
        orders[BY_OUTPUT] = np.concatenate([places.flatten(), taps.view(np.uint8).flatten()])
        if goes_by_planes(operation.operation, shape):
            orders[IN_FOURS] = taps.view(np.uint8)
        return _CTable("weights", "uint8_t", np.ascontiguousarray(taps.T).view(np.uint8), orders)
    # From -127 to 127 becomes from 1 to 255.
    positive = (taps.astype(np.int16) + _ADDED).astype(np.uint8)
    orders[BY_OUTPUT] = positive
    orders[IN_FOURS] = _in_fours(positive)
    blocks, first = [], 0
    while first < outputs:
        size = _side_by_side(outputs - first)
        blocks.append(positive[first : first + size].T.flatten())
        first += size
    return _CTable("weights", "uint8_t", np.concatenate(blocks), orders)


def _in_fours(positive: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return weights (outputs, taps) as four taps of four outputs each, then of two, in zeros where there are fewer."""
    outputs, taps = positive.shape
    filled = np.pad(positive, ((0, outputs % 2), (0, -taps % 4)), constant_values=_ADDED)
    fours, pair = np.split(filled, [outputs // 4 * 4])
    blocks = [
        block.reshape(-1, size, filled.shape[1] // 4, 4).transpose(0, 2, 1, 3).flatten()
        for block, size in ((fours, 4), (pair, 2))
    ]
    return np.concatenate(blocks)


def _side_by_side(left: int) -> int:
    """Return how many outputs lie side by side: `block_of` of kilonet_kernels.h."""
    if left < 8:
        return left
    return 10 if left >= 10 and left % 8 >= 2 else 8


def _tables_file(network: IntegerNetwork, orders: Sequence[str]) -> str:
    parts = [
        '/* Written by kilonet export. */\n#include "model.h"\n\n#include <stddef.h>\n',
        *(_definition(table, number, orders) for number, table in _numbered_tables(network)),
        _operations_table(network, orders),
        _FUNCTIONS.replace("PLANE", str(prod(network.input_shape[1:]))),
    ]
    return "\n".join(parts)


def _numbered_tables(network: IntegerNetwork) -> Iterator[tuple[int, _CTable]]:
    for number, tables in enumerate(_tables(network), 1):
        for table in tables:
            yield number, table


def _definition(table: _CTable, number: int, orders: Sequence[str]) -> str:
    asked = [condition for condition in orders if condition in table.orders]
    if {BY_OUTPUT, IN_FOURS} <= set(asked) and table.orders[BY_OUTPUT] is table.orders[IN_FOURS]:
        # The latter holds wherever the former does.
        asked.remove(BY_OUTPUT)
    others = [(condition, _array(table, number, condition)) for condition in asked]
    return alternatives(others, _array(table, number)) + "\n"


def _array(table: _CTable, number: int, condition: str = "") -> str:
    literals = table.literals(condition)
    start = f"static const {table.c_type} {table.name}_{number}[{len(literals)}] KILONET_FLASH"
    return f"{start} = {{\n{_wrapped_lines(literals)}\n}};"


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


def _wrapped_lines(values: Iterable[str]) -> str:
    lines, line = [], "   "
    for value in values:
        if len(line) + len(value) + 2 > 118:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line])


def _operations_table(network: IntegerNetwork, orders: Sequence[str]) -> str:
    plain, by_planes = (
        "\n".join(
            [
                "const kilonet_operation kilonet_operations[KILONET_OPERATIONS] KILONET_FLASH = {",
                *_operation_initialisers(network, in_planes=in_planes),
                "};",
            ]
        )
        for in_planes in (False, True)
    )
    others = [(IN_PLANES, by_planes)] if IN_FOURS in orders and plain != by_planes else []
    return alternatives(others, plain) + "\n"


def _operation_initialisers(network: IntegerNetwork, *, in_planes: bool) -> Iterator[str]:
    kept = [memory_of(operation, shape) for operation, shape in _operations(network)]
    place, sums = 0, max(memory.results for memory in kept)
    last = network.operations[-1]
    placed = zip(network.placed, kept, _tables(network), strict=True)
    for number, ((operation, shape), memory, tables) in enumerate(placed, 1):
        fields = {table.name: f"{table.name}_{number}" for table in tables}
        fields["pixel"] = str(place)
        if memory.window:
            fields |= {"memory": str(place + memory.pixel), "memory_size": str(memory.window)}
        if memory.sums:
            fields["memory"] = str(sums)
        fields |= _numeric_fields(operation, shape)
        window = memory.window
        if in_planes and memory.plane:
            window, side = memory.pairs_window, int(fields["window"])
            fields |= {
                "kind": "KILONET_BY_PLANES",
                "memory_size": str(memory.plane),
                "row_size": str(memory.plane // side),
            }
        if operation is not last and requantises_in_32_bits(operation, shape):
            fields["narrow"] = "1"
        # g++ would complain of a field that is left out.
        zeros = dict.fromkeys(_FIELDS, "0") | dict.fromkeys(_POINTERS, "NULL")
        yield "    {" + ", ".join(f".{name} = {value}" for name, value in (zeros | fields).items()) + "},"
        place += memory.pixel + window
        sums += memory.sums


def requantises_in_32_bits(operation: IntegerOperation, shape: Shape) -> bool:
    """Return whether 32 bits give the exact output of an operation that is not the last, for an input of `shape`.

    See `requantise_narrow` of kilonet_kernels.h: no part of a product beyond its lowest 16 bits may exceed 31 bits, and
    no offset 32 bits.
    """
    if isinstance(operation, IntegerMaxPooling):
        return False
    output = operation.output
    if output.shift.min() < _NARROW_SHIFTS.start or output.shift.max() >= _NARROW_SHIFTS.stop:
        return False
    if _has_offset(operation) and np.abs(output.offset).max() >= _NARROW_OFFSET:
        return False
    if isinstance(operation, IntegerAveragePooling):
        largest = 255 * averaged_places(operation.operation, shape)
        return bool(
            (largest * np.abs(output.multiplier.astype(np.int64)) + np.abs(output.offset)).max() < _NARROW_PRODUCT
        )
    if not _has_offset(operation) and operation.relu and output.multiplier.min() < 0:
        # There the ReLU is left to the clamping of what is below zero.
        return False
    products = largest_sum(operation) * np.abs(output.multiplier.astype(np.int64)) + np.abs(output.offset)
    if operation.skip is not None:
        products += 255 * np.abs(operation.skip.astype(np.int64))
    return bool(products.max() < _NARROW_PRODUCT)


def _numeric_fields(operation: IntegerOperation, shape: Shape) -> dict[str, str]:
    channels, rows, columns = shape
    outputs = operation.output_shape(shape)[0]
    fields: dict[str, Any] = {"inputs": channels, "outputs": outputs, "rows": rows, "columns": columns}
    match operation:
        case IntegerConvolution():
            kernel = operation.operation
            multiple = outputs // channels if kernel.groups > 1 else 0
            fields |= {"kind": "KILONET_CONVOLUTION", "window": kernel.kernel, "padding": kernel.padding}
            fields["row_size"] = (columns + 2 * kernel.padding) * channels if kernel.kernel > 1 else 0
            fields["multiple"] = multiple
            fields["relu"] = int(operation.relu)
            fields |= {"between": kernel.stride - 1} if kernel.stride > 1 else {}
        case IntegerMaxPooling(MaxPooling(size)):
            fields |= {"kind": "KILONET_MAX_POOL", "window": size, "between": size - 1}
        case IntegerAveragePooling(pool):
            fields["kind"] = "KILONET_AVERAGE_POOL"
            fields |= {"window": pool.size, "between": pool.size - 1} if isinstance(pool, AveragePooling) else {}
    return {name: str(value) for name, value in fields.items()}
