"""The integer network, and the reference that executes docs/INTEGER.md to the bit.

Every exported integer form (C99, JavaScript, ...) is written from an `IntegerNetwork` and must give the same logits as
`integer_logits`. This module uses NumPy only and follows the specification's arithmetic line by line.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.network.operations import (
    Averaging,
    Convolution,
    GlobalAveragePooling,
    MaxPooling,
    Shape,
    averaged_places,
    check_pixels,
)
from kilonet.utils.errors import KilonetError

SPECIFICATION = 1
"""Version of docs/INTEGER.md that this module executes."""

MAXIMUM_MULTIPLIER = (1 << 15) - 1
MAXIMUM_SHIFT = 40
EXACT = 1 << 53
"""Doubles, JavaScript's numbers among them, hold every integer up to here."""
EXACT_FLOAT32 = 1 << 24
"""float32 holds every integer up to here."""
_INT32 = (1 << 31) - 1
_PIXEL = 255
_BATCH = 16

Pixels = NDArray[np.uint8]
Sums = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Requantisation:
    """The output of a channel with the sum `v` is floor((v * multiplier + offset) / 2**shift).

    It is clamped to 0 to 255, except in a network's last operation, whose results are the logits. `offset` is the
    rounding half, 2**(shift - 1), plus the shift of an affine step.
    """

    multiplier: NDArray[np.int32]
    """int32 (channels,), within 15 bits and a sign."""
    shift: NDArray[np.int32]
    """int32 (channels,), from 0 to 40."""
    offset: NDArray[np.int64]
    """int64 (channels,)."""

    @property
    def offset_is_rounding_half(self) -> bool:
        """Whether every offset is only the rounding half."""
        return bool(np.array_equal(self.offset, rounding_half(self.shift)))


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """A convolution with bias, optional ReLU, requantisation and optional residual sum."""

    operation: Convolution
    """Kernel, padding, groups, stride and channels."""
    weights: NDArray[np.int8]
    """int8 (channels out, channels in / groups, kernel, kernel), from -127 to 127."""
    bias: NDArray[np.int32]
    """int32 (channels out,), added to the sum of products."""
    pad: NDArray[np.uint8]
    """uint8 (channels in,): the value of padding, which stands for zero."""
    relu: bool
    """Whether a negative sum becomes zero before it is multiplied."""
    output: Requantisation
    skip: NDArray[np.int32] | None = None
    """int32 (channels out,): multiplier of the residual input before the shift; None without a residual sum."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        return self.operation.output_shape(shape)


@dataclass(frozen=True)
class IntegerMaxPooling:
    """The maximum over windows that do not overlap; remaining rows and columns are dropped."""

    operation: MaxPooling

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        return self.operation.output_shape(shape)


@dataclass(frozen=True, eq=False)
class IntegerAveragePooling:
    """The sum of each channel's map or of its windows, requantised; the division is in the multiplier."""

    operation: Averaging
    output: Requantisation

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        return self.operation.output_shape(shape)


IntegerOperation = IntegerConvolution | IntegerMaxPooling | IntegerAveragePooling


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network of integer operations. The last one, never a max-pool, gives int32 logits; all others give uint8.

    Raises:
        KilonetError: a sum, product or logit could exceed its width in the specification.
    """

    input_shape: Shape
    """(channels, rows, columns) of the uint8 pixels."""
    operations: tuple[IntegerOperation, ...]
    fraction_bits: int
    """A logit of the float network is about the integer logit / 2**fraction_bits."""

    def __post_init__(self) -> None:
        """Check in the worst case of every operation that no sum, product or logit exceeds its width."""
        if isinstance(self.operations[-1], IntegerMaxPooling):
            raise KilonetError("an integer network must end in a convolution or an average pool")
        for number, (operation, shape) in enumerate(self.placed, 1):
            if objection := _objection(operation, shape, is_last=operation is self.operations[-1]):
                raise KilonetError(f"integer operation {number}: {objection}")

    @property
    def placed(self) -> Iterator[tuple[IntegerOperation, Shape]]:
        """The operations in order, each with its input's shape."""
        shape = self.input_shape
        for operation in self.operations:
            yield operation, shape
            shape = operation.output_shape(shape)

    @property
    def classes(self) -> int:
        """The number of logits."""
        *_, (last, shape) = self.placed
        return last.output_shape(shape)[0]


def rounding_half(shift: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the number to add to v so that floor(v / 2**shift) rounds to nearest, halves upwards: int64 (C,)."""
    return (np.int64(1) << shift.astype(np.int64)) >> 1


def integer_logits(network: IntegerNetwork, pixels: Pixels) -> NDArray[np.int32]:
    """Execute the network: uint8 (N, channels, rows, columns) to int32 (N, classes).

    Raises:
        KilonetError: pixels of another shape or dtype.
    """
    check_pixels(pixels, network.input_shape)
    result = np.empty((len(pixels), network.classes), np.int32)
    *hidden, last = network.operations
    for start in range(0, len(pixels), _BATCH):
        values = pixels[start : start + _BATCH].transpose(0, 2, 3, 1)
        for operation in hidden:
            values = execute_operation(operation, values)
        result[start : start + _BATCH] = unclamped_results(last, values).reshape(len(values), -1)
    return result


def execute_operation(operation: IntegerOperation, values: Pixels) -> Pixels:
    """Execute an operation that is not the last: uint8 (N, rows, columns, channels) to uint8 of the same order."""
    if isinstance(operation, IntegerMaxPooling):
        return _maxima(values, operation.operation.size)
    found = _requantised(operation, values)
    return found.clip(0, _PIXEL, out=found).astype(np.uint8)


def unclamped_results(operation: IntegerOperation, values: Pixels) -> Sums:
    """Return the requantised results before clamping: int64 (N, rows, columns, channels).

    Raises:
        TypeError: the operation is a max-pool, which does not requantise.
    """
    return _requantised(operation, values).astype(np.int64)


def _requantised(operation: IntegerOperation, values: Pixels) -> NDArray[np.float64]:
    """Return the unclamped results as float64, which is exact below 2**53 and faster than int64."""
    match operation:
        case IntegerConvolution():
            found = _convolution_sums(operation, values).astype(np.float64, copy=False)
            found += operation.bias
            if operation.relu:
                np.maximum(found, 0, out=found)
            found *= operation.output.multiplier
            if operation.skip is not None:
                found += values * operation.skip.astype(np.float64)
        case IntegerAveragePooling():
            found = _window_sums(operation.operation, values) * operation.output.multiplier
        case IntegerMaxPooling():
            raise TypeError("a max-pool does not requantise")
    found += operation.output.offset
    found *= np.ldexp(1.0, -operation.output.shift)
    return np.floor(found, out=found)


def _maxima(values: Pixels, size: int) -> Pixels:
    """Return the maxima of windows that do not overlap; slice by slice, as NumPy's maximum over two axes is slow."""
    rows, columns = (extent // size * size for extent in values.shape[1:3])
    of_rows = functools.reduce(np.maximum, [values[:, first:rows:size] for first in range(size)])
    return functools.reduce(np.maximum, [of_rows[:, :, first:columns:size] for first in range(size)])


def _windows(values: Pixels, size: int) -> Pixels:
    """Divide a map into windows: (N, rows, columns, channels) to (N, rows / size, size, columns / size, size, ...)."""
    count, rows, columns, channels = values.shape
    kept = values[:, : rows // size * size, : columns // size * size]
    return kept.reshape(count, rows // size, size, columns // size, size, channels)


def _window_sums(operation: Averaging, values: Pixels) -> NDArray[np.float64]:
    """Return the sums that an average pool divides: float64 (N, rows, columns, channels)."""
    if isinstance(operation, GlobalAveragePooling):
        sums: NDArray[np.float64] = values.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    else:
        sums = _windows(values, operation.size).sum(axis=(2, 4), dtype=np.float64)
    return sums


def _convolution_sums(operation: IntegerConvolution, values: Pixels) -> NDArray[Any]:
    """Return the sums of products without bias as float32 or float64."""
    # Sums stay within 2**31, so float64 is exact in any order of summation, and float32 is exact where no partial sum
    # can exceed 2**24. NumPy multiplies float matrices by BLAS, integer matrices by a slow loop.
    exact = np.float32 if largest_sum(operation) < EXACT_FLOAT32 else np.float64
    weights: NDArray[Any] = operation.weights.astype(exact)
    if operation.operation.groups == 1:
        patches = _patches(operation, values.astype(exact))
        outputs = operation.operation.channels_out
        # All values are whole and finite; the product may set the flag for lanes that it leaves unused.
        with np.errstate(invalid="ignore"):
            sums: NDArray[Any] = patches @ weights.transpose(2, 3, 1, 0).reshape(-1, outputs)
    else:
        sums = _grouped_sums(operation, _padded(operation, values.astype(exact)), weights)
    return sums


def _grouped_sums(operation: IntegerConvolution, padded: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Sum tap by tap, as each output has too few inputs for a matrix product: (N, rows, columns, in) to (..., out)."""
    kernel, (outputs, inputs) = operation.operation.kernel, weights.shape[:2]
    stride = operation.operation.stride
    rows, columns = ((extent - kernel) // stride + 1 for extent in padded.shape[1:3])
    sums = np.zeros((len(padded), rows, columns * outputs), padded.dtype)
    products = np.empty_like(sums)
    for channel in range(inputs):
        seen = padded[..., channel::inputs].repeat(outputs // operation.operation.groups, axis=-1)
        for row, column in np.ndindex(kernel, kernel):
            window = seen[:, row::stride, column::stride][:, :rows, :columns]
            # Columns and channels form one axis, which is long enough for NumPy to be fast.
            window = window.reshape(*sums.shape)
            sums += np.multiply(window, np.tile(weights[:, channel, row, column], columns), out=products)
    return sums.reshape(len(padded), rows, columns, outputs)


def _patches(operation: IntegerConvolution, values: NDArray[Any]) -> NDArray[Any]:
    """Return the window of each output: (N, rows, columns, in) to (N, rows out, columns out, kernel squared x in)."""
    kernel, stride = operation.operation.kernel, operation.operation.stride
    windows = np.lib.stride_tricks.sliding_window_view(_padded(operation, values), (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)


def _padded(operation: IntegerConvolution, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values with the operation's padding around them."""
    margin = operation.operation.padding
    count, rows, columns, channels = values.shape
    padded = np.empty((count, rows + 2 * margin, columns + 2 * margin, channels), values.dtype)
    padded[:] = operation.pad
    padded[:, margin : margin + rows, margin : margin + columns] = values
    return padded


def largest_sum(operation: IntegerConvolution) -> int:
    """Return the largest magnitude of any partial sum, bias included."""
    magnitudes = np.abs(operation.weights.astype(np.int64)).sum(axis=(1, 2, 3)) * _PIXEL
    return int((magnitudes + np.abs(operation.bias.astype(np.int64))).max())


def _objection(operation: IntegerOperation, shape: Shape, *, is_last: bool) -> str | None:
    """Return what the operation could overflow, or None."""
    if isinstance(operation, IntegerMaxPooling):
        return None
    skip = 0
    if isinstance(operation, IntegerAveragePooling):
        largest = _PIXEL * averaged_places(operation.operation, shape)
    else:
        largest = largest_sum(operation)
        skip = 0 if operation.skip is None else int(np.abs(operation.skip.astype(np.int64)).max()) * _PIXEL
    output = operation.output
    if largest > _INT32:
        return "a sum could exceed 32 bits"
    if (
        np.abs(output.multiplier).max() > MAXIMUM_MULTIPLIER
        or not 0 <= output.shift.min() <= output.shift.max() <= MAXIMUM_SHIFT
    ):
        return f"a multiplier is over {MAXIMUM_MULTIPLIER} or a shift is not from 0 to {MAXIMUM_SHIFT}"
    products = largest * np.abs(output.multiplier.astype(np.int64)) + skip + np.abs(output.offset)
    if products.max() >= EXACT:
        return "a product could exceed 53 bits"
    if is_last and (products >> output.shift).max() > _INT32:
        return "a logit could exceed 32 bits"
    return None
