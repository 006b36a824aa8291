"""The integer network as an ONNX graph with pairs of QuantizeLinear and DequantizeLinear.

Activations have scale 1, as in docs/INTEGER.md. Weights and bias are stored as they are, with a channel's multiplier
m / 2^shift as their scale. A runtime that fuses the pairs computes the integer sum times m / 2^shift and rounds it,
which is the specification except that floats are rounded. No runtime fuses a residual sum; that is in exact doubles.
See docs/ONNX.md.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.export.integer import (
    EXACT_FLOAT32,
    SPECIFICATION,
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Requantisation,
    largest_sum,
    rounding_half,
)
from kilonet.export.onnx.graph import (
    LOGITS,
    OPSET,
    PIXELS,
    USAGE,
    GraphBuilder,
    convolution_attributes,
    onnx_metadata,
)
from kilonet.models.model import Model
from kilonet.network.operations import AveragePooling
from kilonet.utils.extras import needed_from

with needed_from("onnx"):
    from onnx import ModelProto, TensorProto

WEIGHT_ZERO = 128
"""Added to weights, which are stored as uint8. onnxruntime multiplies uint8 by uint8 exactly on every processor, but
sums of uint8 by int8 saturate at 16 bits on x86 processors without VNNI."""

Reals = NDArray[np.float64]


def int8_graph(model: Model, network: IntegerNetwork, accuracy: float | None = None) -> ModelProto:
    """Return the integer network as an ONNX model; its logits are in the unit of the float network.

    Args:
        model: the trained network, for the metadata.
        network: its integer network.
        accuracy: fraction of the test images, for the metadata; None if it is not known.
    """
    graph = GraphBuilder()
    values = PIXELS
    last = len(network.operations)
    for number, operation in enumerate(network.operations, 1):
        values = _add_operation(
            graph, operation, str(number), values, network.fraction_bits if number == last else None
        )
    graph.node("Flatten", [values], LOGITS, axis=1)
    about = f"Integer network (8-bit weights and activations) with QDQ pairs, ONNX opset {OPSET}. {USAGE}"
    metadata = {
        **onnx_metadata(model, accuracy),
        "kilonet.integer_specification": str(SPECIFICATION),
        "kilonet.fraction_bits": str(network.fraction_bits),
    }
    return graph.build("int8", network.input_shape, network.classes, about=about, metadata=metadata)


def _add_operation(graph: GraphBuilder, operation: IntegerOperation, number: str, values: str, bits: int | None) -> str:
    """Add an operation to a graph and return the name of its result.

    Args:
        graph: the graph.
        operation: an operation of the integer network.
        number: the start of its nodes' names.
        values: the name of its input, uint8 (batch, channels, rows, columns).
        bits: fraction bits of the logits for the last operation, whose result is float32; None for all others, whose
            result is uint8.
    """
    match operation:
        case IntegerMaxPooling():
            size = [operation.operation.size] * 2
            return graph.node("MaxPool", [values], f"{number} maximum", kernel_shape=size, strides=size)
        case IntegerAveragePooling():
            result = _add_average(graph, operation, number, values, 0 if bits is None else bits)
        # Subtracting a zero from the inputs can double a sum.
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


def _add_average(graph: GraphBuilder, operation: IntegerAveragePooling, number: str, values: str, bits: int) -> str:
    real = _dequantise(graph, number, values, np.zeros(len(operation.output.shift), np.uint8))
    scale = operation.output.multiplier * _unit(operation.output, bits)
    if isinstance(operation.operation, AveragePooling):
        size = operation.operation.size
        summed = graph.node("AveragePool", [real], f"{number} mean", kernel_shape=[size] * 2, strides=[size] * 2)
        scale = scale * size**2
    else:
        axes = graph.constant("rows and columns", np.array([2, 3], np.int64))
        summed = graph.node("ReduceSum", [real, axes], f"{number} sum", keepdims=1)
    scaled = graph.node("Mul", [summed, _per_channel(graph, f"{number} scale", scale)], f"{number} scaled")
    return _add_offset(graph, number, scaled, _offset(operation.output, bits))


def _add_convolution(graph: GraphBuilder, operation: IntegerConvolution, number: str, values: str, bits: int) -> str:
    output, zero = operation.output, _zero(operation)
    real = _dequantise(graph, number, values, zero)
    # A channel with multiplier 0 may have any scale but 0, because some runtimes divide by it.
    used, unit = output.multiplier != 0, _unit(output, bits)
    scale = np.where(used, np.abs(output.multiplier), 1) * unit
    # Without ReLU the sign of the multiplier can go into the weights.
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
    graph: GraphBuilder, operation: IntegerConvolution, skip: NDArray[np.integer[Any]], number: str, values: str
) -> str:
    """Add a residual convolution with uint8 result, in float32 sums and doubles that are exact."""
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
    graph: GraphBuilder, operation: IntegerConvolution, number: str, real: str, *, scale: Reals, sign: NDArray[Any]
) -> str:
    """Add the convolution of `real` (q - zero), times sign and scale of each channel, and its ReLU if it has one."""
    weights = operation.weights * sign.reshape(-1, 1, 1, 1).astype(np.int16)
    bias = (operation.bias + _zero_contribution(operation, _zero(operation))) * sign
    scales = graph.constant(f"{number} scale", scale.astype(np.float32))
    factors = [
        _dequantise_constant(graph, f"{number} weights", (weights + WEIGHT_ZERO).astype(np.uint8), WEIGHT_ZERO, scales),
        _dequantise_constant(graph, f"{number} bias", bias.astype(np.int32), 0, scales),
    ]
    result = graph.node(
        "Conv", [real, *factors], f"{number} convolution", **convolution_attributes(operation.operation)
    )
    return graph.node("Relu", [result], f"{number} relu") if operation.relu else result


def _zero(operation: IntegerConvolution) -> NDArray[np.uint8]:
    """Return the number to subtract from each channel's q so that padding is 0: uint8 (channels in,)."""
    return operation.pad if operation.operation.padding else np.zeros_like(operation.pad)


def _zero_contribution(operation: IntegerConvolution, zero: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the convolution of q minus the convolution of q - zero: int64 (channels out,)."""
    groups = operation.operation.groups
    sums = operation.weights.astype(np.int64).sum(axis=(2, 3)).reshape(groups, -1, operation.weights.shape[1])
    contribution: NDArray[np.int64] = (sums @ zero.astype(np.int64).reshape(groups, -1, 1)).reshape(-1)
    return contribution


def _dequantise(graph: GraphBuilder, number: str, values: str, zero: NDArray[np.uint8]) -> str:
    """Add the node from uint8 q to float q - zero, with `zero` per channel."""
    name = f"{number} input"
    if (zero == zero[0]).all():
        # Runtimes fuse only a zero that all channels share into integer kernels.
        inputs = [graph.constant("one step", np.float32(1)), graph.constant(f"zero {zero[0]}", zero[0])]
        return graph.node("DequantizeLinear", [values, *inputs], name)
    ones = np.ones(len(zero), np.float32)
    inputs = [graph.constant(f"{number} input scale", ones), graph.constant(f"{number} input zero", zero)]
    return graph.node("DequantizeLinear", [values, *inputs], name, axis=1)


def _dequantise_constant(graph: GraphBuilder, name: str, values: NDArray[Any], zero: int, scales: str) -> str:
    """Add stored integers and the node that makes them floats; `scales` names the scales along the first axis."""
    zeros = graph.constant(f"{len(values)} zeros of {values.dtype}", np.full(len(values), zero, values.dtype))
    return graph.node("DequantizeLinear", [graph.constant(name, values), scales, zeros], f"{name} as float", axis=0)


def _unit(output: Requantisation, bits: int) -> Reals:
    """Return the value in the result of one unit before the shift: 2^-(shift + bits), float64 (channels,)."""
    return np.ldexp(1.0, -(output.shift + bits))


def _signs(output: Requantisation) -> NDArray[np.int64]:
    return np.sign(output.multiplier).astype(np.int64)


def _offset(output: Requantisation, bits: int) -> Reals:
    """Return the offset without the rounding half, because QuantizeLinear rounds itself: float64 (channels,)."""
    return (output.offset - rounding_half(output.shift)) * _unit(output, bits)


def _add_offset(graph: GraphBuilder, number: str, values: str, offset: Reals) -> str:
    if not offset.any():
        return values
    return graph.node("Add", [values, _per_channel(graph, f"{number} offset", offset)], f"{number} shifted")


def _per_channel(graph: GraphBuilder, name: str, values: NDArray[Any]) -> str:
    return graph.constant(name, values.astype(np.float32).reshape(1, -1, 1, 1))
