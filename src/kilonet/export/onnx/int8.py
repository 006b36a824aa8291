"""The operations of the integer network in ONNX, as pairs of QuantizeLinear and DequantizeLinear.

An activation's uint8 counts in steps of one (scale 1), as it does in docs/INTEGER.md: a channel's multiplier
m / 2^shift is the scale of its weights and bias, both integers that are kept as they are. So what a runtime that fuses
the pairs computes is the integer sum times m / 2^shift, rounded, which is the specification but for floats. No runtime
fuses a convolution with its own input added; that is written as the specification says it, in doubles, which are exact.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.export.integer import (
    EXACT_FLOAT32,
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerOperation,
    Requantisation,
    largest_sum,
    rounding_half,
)
from kilonet.export.onnx.graph import Graph
from kilonet.utils.extras import needed_from

with needed_from("onnx"):
    from onnx import TensorProto

WEIGHT_ZERO = 128
"""Weights are stored as uint8, moved by this: onnxruntime multiplies uint8 by uint8 exactly on every processor, but
uint8 by int8 with sums that saturate at 16 bits on x86 processors without VNNI."""

Reals = NDArray[np.float64]


def add_operation(graph: Graph, operation: IntegerOperation, number: str, values: str, bits: int | None) -> str:
    """Add an operation to a graph and return the name of its result.

    Args:
        graph: the graph.
        operation: of the integer network.
        number: what its nodes' names start with.
        values: the name of its input, uint8 (batch, channels, rows, columns).
        bits: for the last operation, whose result is float32, the fraction bits of its logits; for all others, whose
            result is uint8, None.
    """
    match operation:
        case IntegerMaxPooling():
            size = [operation.operation.size] * 2
            return graph.node("MaxPool", [values], f"{number} maximum", kernel_shape=size, strides=size)
        case IntegerAveragePooling():
            result = _add_average(graph, operation, number, values, 0 if bits is None else bits)
        # A zero taken off the inputs can double a sum.
        case IntegerConvolution(skip=skip) if (
            skip is not None and bits is None and 2 * largest_sum(operation) < EXACT_FLOAT32
        ):
            return _add_exactly(graph, operation, skip, number, values)
        case IntegerConvolution():
            result = _add_convolution(graph, operation, number, values, 0 if bits is None else bits)
    if bits is not None:
        return result
    step, zero = graph.constant("one step", np.float32(1)), graph.constant("zero", np.uint8(0))
    return graph.node("QuantizeLinear", [result, step, zero], f"{number} quantised")


def _add_average(graph: Graph, operation: IntegerAveragePooling, number: str, values: str, bits: int) -> str:
    real = _dequantise(graph, number, values, np.zeros(len(operation.output.shift), np.uint8))
    axes = graph.constant("rows and columns", np.array([2, 3], np.int64))
    summed = graph.node("ReduceSum", [real, axes], f"{number} sum", keepdims=1)
    scale = operation.output.multiplier * _unit(operation.output, bits)
    scaled = graph.node("Mul", [summed, _per_channel(graph, f"{number} scale", scale)], f"{number} scaled")
    return _add_offset(graph, number, scaled, _offset(operation.output, bits))


def _add_convolution(graph: Graph, operation: IntegerConvolution, number: str, values: str, bits: int) -> str:
    output, zero = operation.output, _zero(operation)
    real = _dequantise(graph, number, values, zero)
    # A sum that counts for nothing may have any scale but zero, which divides in some runtimes.
    used, unit = output.multiplier != 0, _unit(output, bits)
    scale = np.where(used, np.abs(output.multiplier), 1) * unit
    # Only ReLU tells a sum from its negative; without it the sign of the multiplier goes to the weights.
    sign = used if operation.relu else _signs(output)
    result = _add_sums(graph, operation, number, real, scale=scale, sign=sign)
    if operation.relu and (output.multiplier < 0).any():
        result = graph.node("Mul", [result, _per_channel(graph, f"{number} sign", _signs(output))], f"{number} signed")
    offset = _offset(output, bits)
    if operation.skip is not None:
        factor = _per_channel(graph, f"{number} skip", operation.skip * unit)
        skipped = graph.node("Mul", [real, factor], f"{number} skipped")
        result = graph.node("Add", [result, skipped], f"{number} residual")
        offset = offset + operation.skip * unit * zero
    return _add_offset(graph, number, result, offset)


def _add_exactly(
    graph: Graph, operation: IntegerConvolution, skip: NDArray[np.integer[Any]], number: str, values: str
) -> str:
    """Add a residual convolution as the specification has it, in float32 sums and doubles that never round: uint8."""
    output = operation.output
    real = _dequantise(graph, number, values, _zero(operation))
    ones = np.ones(operation.operation.channels_out)
    sums = _add_sums(graph, operation, number, real, scale=ones, sign=ones.astype(np.int64))

    def constant(name: str, steps: NDArray[Any]) -> str:
        return graph.constant(f"{number} {name}", (steps * _unit(output, 0)).reshape(1, -1, 1, 1))

    terms = []
    for name, counted, factor in (("scaled", sums, output.multiplier), ("skipped", values, skip)):
        double = graph.node("Cast", [counted], f"{number} {name} exactly", to=TensorProto.DOUBLE)
        terms.append(graph.node("Mul", [double, constant(f"{name} by", factor)], f"{number} {name}"))
    total = graph.node("Add", terms, f"{number} residual")
    shifted = graph.node("Add", [total, constant("offset", output.offset)], f"{number} shifted")
    whole = graph.node("Floor", [shifted], f"{number} whole")
    limits = [graph.constant("least", np.float64(0)), graph.constant("most", np.float64(np.iinfo(np.uint8).max))]
    clipped = graph.node("Clip", [whole, *limits], f"{number} clipped")
    return graph.node("Cast", [clipped], f"{number} quantised", to=TensorProto.UINT8)


def _add_sums(
    graph: Graph, operation: IntegerConvolution, number: str, real: str, *, scale: Reals, sign: NDArray[Any]
) -> str:
    """Add the convolution of `real`, whose values are q - zero, times sign and scale per channel, and its ReLU."""
    shape = operation.operation
    weights = operation.weights * sign.reshape(-1, 1, 1, 1).astype(np.int16)
    bias = (operation.bias + _moved(operation, _zero(operation))) * sign
    scales = graph.constant(f"{number} scale", scale.astype(np.float32))
    factors = [
        _dequantise_constant(graph, f"{number} weights", (weights + WEIGHT_ZERO).astype(np.uint8), WEIGHT_ZERO, scales),
        _dequantise_constant(graph, f"{number} bias", bias.astype(np.int32), 0, scales),
    ]
    attributes = {"kernel_shape": [shape.kernel] * 2, "pads": [shape.padding] * 4, "group": shape.groups}
    result = graph.node("Conv", [real, *factors], f"{number} convolution", **attributes)
    return graph.node("Relu", [result], f"{number} relu") if operation.relu else result


def _zero(operation: IntegerConvolution) -> NDArray[np.uint8]:
    """Return what is taken off a channel's q, so that what is padded is 0: uint8 (channels in,)."""
    return operation.pad if operation.operation.padding else np.zeros_like(operation.pad)


def _moved(operation: IntegerConvolution, zero: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return what a convolution of q has more than one of q - zero: int64 (channels out,)."""
    groups = operation.operation.groups
    sums = operation.weights.astype(np.int64).sum(axis=(2, 3)).reshape(groups, -1, operation.weights.shape[1])
    moved: NDArray[np.int64] = (sums @ zero.astype(np.int64).reshape(groups, -1, 1)).reshape(-1)
    return moved


def _dequantise(graph: Graph, number: str, values: str, zero: NDArray[np.uint8]) -> str:
    """Add what turns uint8 q into float q - zero, given zero per channel."""
    name = f"{number} input"
    if (zero == zero[0]).all():
        # One zero for all is what runtimes fuse into integer kernels.
        inputs = [graph.constant("one step", np.float32(1)), graph.constant(f"zero {zero[0]}", zero[0])]
        return graph.node("DequantizeLinear", [values, *inputs], name)
    ones = np.ones(len(zero), np.float32)
    inputs = [graph.constant(f"{number} input scale", ones), graph.constant(f"{number} input zero", zero)]
    return graph.node("DequantizeLinear", [values, *inputs], name, axis=1)


def _dequantise_constant(graph: Graph, name: str, values: NDArray[Any], zero: int, scales: str) -> str:
    """Add what turns stored integers into floats, given their zero and the name of the scales along the first axis."""
    zeros = graph.constant(f"{len(values)} zeros of {values.dtype}", np.full(len(values), zero, values.dtype))
    return graph.node("DequantizeLinear", [graph.constant(name, values), scales, zeros], f"{name} as float", axis=0)


def _unit(output: Requantisation, bits: int) -> Reals:
    """Return what one unit before the shift counts for in the result: 2^-(shift + bits), float64 (channels,)."""
    return np.ldexp(1.0, -(output.shift + bits))


def _signs(output: Requantisation) -> NDArray[np.int64]:
    return np.sign(output.multiplier).astype(np.int64)


def _offset(output: Requantisation, bits: int) -> Reals:
    """Return the offset without its rounding half, which QuantizeLinear has of itself: float64 (channels,)."""
    return (output.offset - rounding_half(output.shift)) * _unit(output, bits)


def _add_offset(graph: Graph, number: str, values: str, offset: Reals) -> str:
    if not offset.any():
        return values
    return graph.node("Add", [values, _per_channel(graph, f"{number} offset", offset)], f"{number} shifted")


def _per_channel(graph: Graph, name: str, values: NDArray[Any]) -> str:
    return graph.constant(name, values.astype(np.float32).reshape(1, -1, 1, 1))
