"""Steps in the units of the integers, before they are rounded: what fine-tuning trains and what becomes integers.

A tensor's uint8 q stands for scale * (q - zero) per channel. A prepared convolution's weights and bias are counted in
steps of its int8, but are real numbers still; rounding them, and writing its multipliers in fixed point, is all that
separates it from the integer operation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilonet.export.folding import FoldedConvolution, convolve
from kilonet.export.integer import (
    MAXIMUM_MULTIPLIER,
    MAXIMUM_SHIFT,
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Requantisation,
    rounding_half,
)
from kilonet.network.operations import MaxPooling, Shape
from kilonet.network.section import ModelSection

MAXIMUM_WEIGHT = 127
_PIXEL = 255
_MAXIMUM_FRACTION_BITS = 16
_LARGEST_LOGIT = 2.0**30


@dataclass(frozen=True, eq=False)
class Output:
    """From a sum to the next q: multiplier * sum + skip * q + offset; all float64 (channels,)."""

    multiplier: Tensor
    offset: Tensor
    skip: Tensor | None = None

    def apply(self, sums: Tensor, values: Tensor) -> Tensor:
        """Return the real result before it is rounded and clamped: (N, channels, rows, columns)."""
        result = sums * _spread(self.multiplier, sums) + _spread(self.offset, sums)
        return result if self.skip is None else result + values * _spread(self.skip, sums)


@dataclass(frozen=True, eq=False)
class PreparedConvolution:
    """A convolution counted in integer steps, float64."""

    folded: FoldedConvolution
    weights: Tensor
    """(channels out, channels in / groups, kernel, kernel), to be rounded to -127 to 127."""
    bias: Tensor
    """(channels out,), to be rounded."""
    pad: Tensor
    """(channels in,), whole numbers from 0 to 255."""
    output: Output


@dataclass(frozen=True, eq=False)
class PreparedAverage:
    """A sum over each channel's map and what follows it."""

    output: Output


PreparedStep = PreparedConvolution | PreparedAverage | MaxPooling


def rounded(values: Tensor) -> Tensor:
    """Round to nearest, halves upwards, as the integers do; the gradient passes as if nothing had happened.

    Source of the straight-through estimator: Y. Bengio, N. Leonard, A. Courville, "Estimating or propagating gradients
    through stochastic neurons", 2013.
    """
    whole: Tensor = values + (torch.floor(values + 0.5) - values).detach()
    return whole


def execute(step: PreparedStep, values: Tensor, *, is_last: bool) -> Tensor:
    """Execute a step on whole numbers held as floats, as the integers will but for the fixed point of multipliers.

    Takes and returns (N, channels, rows, columns); the last step's results, the logits, stay real.
    """
    match step:
        case MaxPooling(size):
            return functional.max_pool2d(values, size)
        case PreparedAverage(output):
            result = output.apply(values.sum(dim=(2, 3), keepdim=True), values)
        case PreparedConvolution():
            sums = integer_sums(step, values)
            result = step.output.apply(sums.relu() if step.folded.relu else sums, values)
    return result if is_last else rounded(result.clamp(0, _PIXEL))


def integer_sums(step: PreparedConvolution, values: Tensor) -> Tensor:
    """Return the sums of a convolution with rounded weights and bias."""
    weights = rounded(step.weights.clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT)).to(values.dtype)
    return convolve(step.folded, weights, rounded(step.bias).to(values.dtype), step.pad.to(values.dtype), values)


def to_integers(section: ModelSection, steps: Sequence[PreparedStep]) -> IntegerNetwork:
    """Round the steps to an integer network.

    Raises:
        KilonetError: a sum, product or logit could pass the width that the specification gives it.
    """
    bits = _fraction_bits(steps[-1], _shape_before_last(section.input_shape, steps))
    operations = tuple(_operation(step, bits if step is steps[-1] else 0) for step in steps)
    return IntegerNetwork(section.input_shape, operations, bits)


def _operation(step: PreparedStep, bits: int) -> IntegerOperation:
    match step:
        case MaxPooling():
            return IntegerMaxPooling(step)
        case PreparedAverage(output):
            return IntegerAveragePooling(_fixed_point(output, bits)[0])
        case PreparedConvolution():
            requantisation, skip = _fixed_point(step.output, bits)
            weights = rounded(step.weights.clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT))
            return IntegerConvolution(
                step.folded.operation,
                _array(weights).astype(np.int8),
                _array(rounded(step.bias)).clip(-(2**31), 2**31 - 1).astype(np.int32),
                _array(step.pad).astype(np.uint8),
                step.folded.relu,
                requantisation,
                skip,
            )


def _fixed_point(output: Output, bits: int) -> tuple[Requantisation, NDArray[np.int32] | None]:
    """Write the multipliers with 15 bits and the largest shift at which nothing passes its width."""
    multiplier = _array(output.multiplier) * 2.0**bits
    offset = _array(output.offset) * 2.0**bits
    # |multiplier| = mantissa * 2**exponent, mantissa from 0.5 to 1 exclusive: 15 bits shifted by 15 - exponent.
    shift = np.where(multiplier == 0, 0, 15 - np.frexp(multiplier)[1])
    if output.skip is not None:
        skip = _array(output.skip) * 2.0**bits
        shift = np.minimum(shift, 30 - np.frexp(skip)[1])
    shift = shift.clip(0, MAXIMUM_SHIFT).astype(np.int32)
    whole = np.rint(multiplier * 2.0**shift).clip(-MAXIMUM_MULTIPLIER, MAXIMUM_MULTIPLIER).astype(np.int32)
    fixed = Requantisation(whole, shift, np.rint(offset * 2.0**shift).astype(np.int64) + rounding_half(shift))
    return fixed, None if output.skip is None else np.rint(skip * 2.0**shift).astype(np.int32)


def _fraction_bits(last: PreparedStep, shape: Shape) -> int:
    """Return how many bits behind the point the logits can have, by the worst case of the last step."""
    if isinstance(last, PreparedConvolution):
        largest = last.weights.abs().sum(dim=(1, 2, 3)) * _PIXEL + last.bias.abs()
        skipped = 0.0 if last.output.skip is None else _PIXEL * last.output.skip.abs()
    elif isinstance(last, PreparedAverage):
        largest, skipped = torch.full_like(last.output.multiplier, _PIXEL * shape[1] * shape[2]), 0.0
    else:
        raise TypeError(last)
    logit = float((largest * last.output.multiplier.abs() + skipped + last.output.offset.abs()).max())
    return int(np.clip(np.floor(np.log2(_LARGEST_LOGIT / max(logit, 1e-300))), 0, _MAXIMUM_FRACTION_BITS))


def _shape_before_last(shape: Shape, steps: Sequence[PreparedStep]) -> Shape:
    for step in steps[:-1]:
        match step:
            case MaxPooling():
                shape = step.output_shape(shape)
            case PreparedAverage():
                shape = (shape[0], 1, 1)
            case PreparedConvolution():
                shape = step.folded.operation.output_shape(shape)
    return shape


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(1, -1, 1, 1)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().numpy(), np.float64)
