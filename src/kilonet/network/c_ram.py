"""The RAM that the C form of a network takes, to the byte, computed from its layers alone.

The C form keeps no whole feature map, but of each operation's input only the rows that its window needs. The figures of
`kilonet summary`, `kilonet export --to c` and a sweep's budget are all computed here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import assert_never

from kilonet.network.operations import AveragePooling, Averaging, Convolution, GlobalAveragePooling, MaxPooling, Shape
from kilonet.network.section import ModelSection

OPERATION_BYTES = {16: 44, 32: 52}
"""Size of a kilonet_operation where pointers take four bytes, by the bits of its indices."""
_STATE_BYTES = 12
"""Size of a kilonet_position in kilonet_runtime.h."""

_SIDE_BY_SIDE = 6
"""How many sums a kernel for depthwise convolutions may write at once, some of them behind the last."""

_PLANES_KERNEL, _PLANES_COLUMNS = 5, 4
"""The kernel of a depthwise convolution that may compute several columns of its output at once, and how many."""

Computed = Convolution | MaxPooling | Averaging
"""An operation of the integer network; the others are folded into these."""


@dataclass(frozen=True)
class OperationMemory:
    """The working memory of one operation, in bytes where nothing else is said."""

    pixel: int
    """One pixel of its input with all channels."""
    window: int
    """A convolution's ring, or a max-pool's row of results."""
    sums: int
    """Number of int32 that an average pool sums in: one a channel of each window in a row."""
    scratch: int
    """A dense convolution's gathered window, or a pixel of padding; all operations share the memory for it."""
    pairs_scratch: int
    """The same where pairs of 16 bits are multiplied, with KILONET_TAPS of kilonet_runtime.h."""
    vectors_scratch: int
    """The same where 16 bytes are, with KILONET_MVE."""
    plane: int
    """A channel's rows where pairs are multiplied and a convolution computes four pixels at once; 0 of any other."""
    pairs_window: int
    """`window` where pairs are multiplied: there all planes and the four pixels, if it has any."""
    results: int
    """Number of int32 that a convolution sums in; all operations share the memory for them."""
    map: int
    """Its input with padding. Where vectors execute the network, all operations share memory for two such maps."""


def memory_of(operation: Computed, shape: Shape) -> OperationMemory:
    """Return the working memory of an operation on an input of `shape`."""
    channels, rows, columns = shape
    match operation:
        case Convolution(_, outputs, kernel, padding, groups):
            around = 2 * padding
            ring = ((kernel - 1) * (columns + around) + kernel) * channels if kernel > 1 else 0
            whole = (rows + around) * (columns + around) * channels
            pad = channels if padding else 0
            if groups > 1:
                # A row of the window in pieces of at most five pixels, one of which the end of the ring may break.
                pieces = kernel * -(-kernel // 5) + 2
                results = outputs + (_SIDE_BY_SIDE - 1 if outputs % _SIDE_BY_SIDE else 0)
                pairs, plane, planes = 8 * pieces, 0, ring
                if goes_by_planes(operation, shape):
                    plane = kernel * (columns + around)
                    pairs, planes = pad, (plane + _PLANES_COLUMNS) * channels
                vectors = 2 * kernel * kernel
                return OperationMemory(channels, ring, 0, pad, pairs, vectors, plane, planes, results, whole)
            taps = kernel * kernel * channels
            # Copies end with a whole word, and an odd number of outputs gives one sum more.
            pairs, results = 8 * words(taps) + 4, outputs + outputs % 2
            return OperationMemory(channels, ring, 0, max(taps, pad), pairs, taps, 0, ring, results, whole)
        case MaxPooling(size):
            row = columns // size * channels
            return OperationMemory(channels, row, 0, 0, 0, 0, 0, row, 0, prod(shape))
        case AveragePooling(size):
            return OperationMemory(channels, 0, columns // size * channels, 0, 0, 0, 0, 0, 0, prod(shape))
        case GlobalAveragePooling():
            return OperationMemory(channels, 0, channels, 0, 0, 0, 0, 0, 0, prod(shape))
        case _:
            assert_never(operation)


def goes_by_planes(operation: Computed, shape: Shape) -> bool:
    """Return whether an operation on an input of `shape` computes four pixels at once where pairs are multiplied.

    See KILONET_BY_PLANES of kilonet_runtime.h.
    """
    return (
        isinstance(operation, Convolution)
        and 1 < operation.groups == operation.channels_out
        and (operation.kernel, operation.stride) == (_PLANES_KERNEL, 1)
        and operation.output_shape(shape)[2] >= _PLANES_COLUMNS
    )


def scratch_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the bytes of the scratch memory that all operations share."""
    # A zero ends the values.
    return 4 * words(1 + max(memory.scratch for memory in kept))


def pairs_scratch_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the same for a processor that multiplies pairs of 16 bits."""
    return 4 * words(max(1, *(memory.pairs_scratch for memory in kept)))


def pairs_more_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return how many bytes more all memory takes there."""
    return pairs_scratch_bytes(kept) - scratch_bytes(kept) + 4 * (words(pairs_bytes(kept)) - words(kept_bytes(kept)))


def vectors_more_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the same for a processor that multiplies 16 bytes at once."""
    return vectors_scratch_bytes(kept) - scratch_bytes(kept)


def kept_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the bytes of the pixels and windows of all operations."""
    return sum(memory.pixel + memory.window for memory in kept)


def pairs_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the same for a processor that multiplies pairs of 16 bits."""
    return sum(memory.pixel + memory.pairs_window for memory in kept)


def vectors_scratch_bytes(kept: Sequence[OperationMemory]) -> int:
    """Return the same for a processor that multiplies 16 bytes at once."""
    return 4 * words(max(1, *(memory.vectors_scratch for memory in kept)))


def words(count: int) -> int:
    """Return how many words of four bytes hold `count` bytes."""
    return (count + 3) // 4


def sum_count(kept: Sequence[OperationMemory]) -> int:
    """Return the number of int32 sums: those of the widest convolution, which all share, then each average pool's."""
    return max(memory.results for memory in kept) + sum(memory.sums for memory in kept)


def c_ram_bytes(operations: Iterable[tuple[Computed, Shape]], input_shape: Shape, classes: int) -> int:
    """Return the bytes of RAM of the C form for pixels, logits and working memory, without the stack.

    Args:
        operations: what the integer network consists of, in order, each operation with the shape of its input.
        input_shape: the shape of one image.
        classes: the number of logits.
    """
    kept = [memory_of(operation, shape) for operation, shape in operations]
    arrays = 4 * words(kept_bytes(kept)) + scratch_bytes(kept) + 4 * sum_count(kept) + _STATE_BYTES * len(kept)
    return prod(input_shape) + 4 * classes + arrays


def computed_operations(model: ModelSection) -> list[tuple[Computed, Shape]]:
    """Return the operations of the integer network of a model, in order, each with the shape of its input.

    A network that ends in a max-pool gets a convolution behind it, because a max-pool gives no logits.
    """
    computed: list[tuple[Computed, Shape]] = [
        (operation, placed.input_shape)
        for placed in model.placed
        for operation in placed.operations[:1]
        if isinstance(operation, Computed)
    ]
    if isinstance(computed[-1][0], MaxPooling):
        computed.append((Convolution(model.classes, model.classes, 1, groups=model.classes), (model.classes, 1, 1)))
    return computed
