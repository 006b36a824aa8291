"""The steps of a network in units of the integers, before rounding. Fine-tuning trains them; then they become integers.

A uint8 q stands for scale * (q - zero), with scale and zero per channel. The weights and bias of an unrounded
convolution count steps of its int8, but are real numbers. An integer operation differs from its unrounded step only by
rounded weights and bias and by multipliers in fixed point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilonet.export.folding import FoldedConvolution, per_weight
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
from kilonet.network.module import max_pool
from kilonet.network.operations import AveragePooling, Averaging, MaxPooling, Shape, averaged_places
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError

MAXIMUM_WEIGHT = 127
_PIXEL = 255
_MAXIMUM_FRACTION_BITS = 16
_LARGEST_LOGIT = 2.0**30


@dataclass(frozen=True, eq=False)
class UnroundedRequantisation:
    """The next q is multiplier * sum + skip * q + offset, rounded and clamped; all float64 (channels,)."""

    multiplier: Tensor
    offset: Tensor
    skip: Tensor | None = None

    def apply(self, sums: Tensor, values: Tensor) -> Tensor:
        """Return the result before rounding and clamping: (N, channels, rows, columns)."""
        result = (sums * _spread(self.multiplier, sums)).add_(_spread(self.offset, sums))
        return result if self.skip is None else result.add_(values * _spread(self.skip, sums))


@dataclass(frozen=True, eq=False)
class UnroundedConvolution:
    """A convolution whose weights and bias count integer steps; tensors are float64."""

    folded: FoldedConvolution
    weights: Tensor
    """(channels out, channels in / groups, kernel, kernel), within -127 to 127 after rounding."""
    bias: Tensor
    """(channels out,), not yet rounded."""
    pad: Tensor
    """(channels in,), whole numbers from 0 to 255."""
    output: UnroundedRequantisation


@dataclass(frozen=True, eq=False)
class UnroundedAveragePooling:
    """The sum of each channel's map or of its windows, scaled to the mean by the multiplier of `output`."""

    operation: Averaging
    output: UnroundedRequantisation


UnroundedStep = UnroundedConvolution | UnroundedAveragePooling | MaxPooling


def round_straight_through(values: Tensor) -> Tensor:
    """Round to nearest, halves upwards, as the integers do; the gradient is that of the identity.

    Source of this straight-through estimator: Y. Bengio, N. Leonard, A. Courville, "Estimating or propagating gradients
    through stochastic neurons", 2013.
    """
    whole = (values.detach() + 0.5).floor_()
    return values + (whole - values.detach()) if values.requires_grad else whole


def execute_step(step: UnroundedStep, values: Tensor, *, is_last: bool, sums: Tensor | None = None) -> Tensor:
    """Execute a step on whole numbers held as floats, like the integer operation but with real multipliers.

    Takes and returns (N, channels, rows, columns). The last step's results, the logits, are not rounded. `sums` are the
    `rounded_convolution_sums` of a convolution, if they are known.
    """
    match step:
        case MaxPooling(size):
            return max_pool(values, size)
        case UnroundedAveragePooling(operation, output):
            result = output.apply(_window_sums(operation, values), values)
        case UnroundedConvolution():
            sums = rounded_convolution_sums(step, values) if sums is None else sums
            result = step.output.apply(sums.relu() if step.folded.relu else sums, values)
    return result if is_last else _to_uint8(result)


def _to_uint8(values: Tensor) -> Tensor:
    """Round as `round_straight_through` and clamp; the gradient is zero where that clamps. The values are used up."""
    # As few passes as possible: those over the maps take longer than the convolutions. The bound is just below 256.
    held = functional.hardtanh(values.add_(0.5), 0.0, _PIXEL + 0.99)
    with torch.no_grad():
        held.floor_()
    return held


def _window_sums(operation: Averaging, values: Tensor) -> Tensor:
    if isinstance(operation, AveragePooling):
        return functional.avg_pool2d(values, operation.size, divisor_override=1)
    return values.sum(dim=(2, 3), keepdim=True)


def rounded_convolution_sums(step: UnroundedConvolution, values: Tensor) -> Tensor:
    """Return the sums of a convolution with its weights and bias rounded: (N, channels out, rows, columns)."""
    operation, dtype = step.folded.operation, values.dtype
    weights = round_straight_through(step.weights.clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT))
    bias = round_straight_through(step.bias)
    if operation.padding:
        # Less its pad a map is padded with zeros, which takes no copy of it; the bias makes up for what is missing.
        bias = bias + (weights * per_weight(step.pad.to(weights.dtype), operation)).sum((1, 2, 3))
        values = values - _spread(step.pad, values)
    return functional.conv2d(
        values, weights.to(dtype), bias.to(dtype), operation.stride, operation.padding, groups=operation.groups
    )


def to_integer_network(section: ModelSection, steps: Sequence[UnroundedStep]) -> IntegerNetwork:
    """Return the integer network that the steps round to.

    Raises:
        KilonetError: a sum, product or logit could pass the width that the specification gives it.
    """
    bits = _fraction_bits(steps[-1], _shape_before_last(section.input_shape, steps))
    operations = tuple(_operation(step, bits if step is steps[-1] else 0) for step in steps)
    return IntegerNetwork(section.input_shape, operations, bits)


def _operation(step: UnroundedStep, bits: int) -> IntegerOperation:
    match step:
        case MaxPooling():
            return IntegerMaxPooling(step)
        case UnroundedAveragePooling(operation, output):
            return IntegerAveragePooling(operation, _fixed_point(output, bits)[0])
        case UnroundedConvolution():
            requantisation, skip = _fixed_point(step.output, bits)
            weights = round_straight_through(step.weights.clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT))
            return IntegerConvolution(
                step.folded.operation,
                _array(weights).astype(np.int8),
                _array(round_straight_through(step.bias)).clip(-(2**31), 2**31 - 1).astype(np.int32),
                _array(step.pad).astype(np.uint8),
                step.folded.relu,
                requantisation,
                skip,
            )


def _fixed_point(output: UnroundedRequantisation, bits: int) -> tuple[Requantisation, NDArray[np.int32] | None]:
    """Return the multipliers with 15 bits at the largest shift that keeps every number within its width."""
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


def _fraction_bits(last: UnroundedStep, shape: Shape) -> int:
    """Return how many fraction bits the logits can have in the worst case of the last step."""
    if isinstance(last, UnroundedConvolution):
        largest = last.weights.abs().sum(dim=(1, 2, 3)) * _PIXEL + last.bias.abs()
        skipped = 0.0 if last.output.skip is None else _PIXEL * last.output.skip.abs()
    elif isinstance(last, UnroundedAveragePooling):
        places = averaged_places(last.operation, shape)
        largest, skipped = torch.full_like(last.output.multiplier, _PIXEL * places), 0.0
    else:
        raise TypeError(last)
    logit = float((largest * last.output.multiplier.abs() + skipped + last.output.offset.abs()).max())
    if not math.isfinite(logit):
        raise KilonetError("the weights are too large for integers: a scale is NaN or infinite")
    return int(np.clip(np.floor(np.log2(_LARGEST_LOGIT / max(logit, 1e-300))), 0, _MAXIMUM_FRACTION_BITS))


def _shape_before_last(shape: Shape, steps: Sequence[UnroundedStep]) -> Shape:
    for step in steps[:-1]:
        match step:
            case MaxPooling():
                shape = step.output_shape(shape)
            case UnroundedAveragePooling():
                shape = step.operation.output_shape(shape)
            case UnroundedConvolution():
                shape = step.folded.operation.output_shape(shape)
    return shape


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(1, -1, 1, 1)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().numpy(), np.float64)
