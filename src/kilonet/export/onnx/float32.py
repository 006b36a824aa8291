"""The trained network as a float32 ONNX graph, with the nodes of its list of layers."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kilonet.export.folding import BATCH_NORM_EPSILON
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
from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import (
    AveragePooling,
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
)
from kilonet.network.section import ModelSection
from kilonet.network.support import check_support
from kilonet.utils.extras import needed_from

with needed_from("onnx"):
    from onnx import ModelProto, TensorProto


def float_graph(model: Model, accuracy: float | None = None) -> ModelProto:
    """Return the trained network as an ONNX model with a node for every operation of its list of layers.

    Args:
        model: the trained network.
        accuracy: fraction of the test images, for the metadata; None if it is not known.

    Raises:
        KilonetError: the network has an operation that the graph has no node for.
    """
    section, graph = model.section, GraphBuilder()
    values = _normalise(graph, section)
    state = model.network.state()
    for placed in section.placed:
        check_support(placed, "the float32 ONNX graph")
        values = _add_layer(graph, placed, state, values)
    graph.node("Flatten", [values], LOGITS, axis=1)
    about = f"Float network, ONNX opset {OPSET}. {USAGE}"
    return graph.build(
        "float", section.input_shape, section.classes, about=about, metadata=onnx_metadata(model, accuracy)
    )


def _normalise(graph: GraphBuilder, section: ModelSection) -> str:
    """Add the normalisation of pixels in the order of the torch module, so that the floats are the same."""

    def levels(values: float | tuple[float, ...]) -> NDArray[np.float32]:
        """Return values from 0 to 1 as levels: float32 () for all channels, or (channels, 1, 1)."""
        one = np.array(values, np.float32) if isinstance(values, tuple) else np.float32(255 * values)
        return np.asarray(np.float32(255) * one.reshape(-1, 1, 1) if one.ndim else one, np.float32)

    values = graph.node("Cast", [PIXELS], "pixels as float", to=TensorProto.FLOAT)
    centred = graph.node("Sub", [values, graph.constant("mean", levels(section.mean))], "centred")
    return graph.node("Div", [centred, graph.constant("std", levels(section.std))], "normalised")


def _add_layer(graph: GraphBuilder, placed: PlacedLayer, state: Mapping[str, Tensor], before: str) -> str:
    values, name = before, f"{placed.number + 1} {placed.layer}"

    def constant(key: str) -> str:
        tensor = placed.tensor_name(key)
        return graph.constant(tensor, state[tensor].detach().numpy())

    for operation in placed.operations:
        values = _add_operation(graph, operation, name, constant, values)
    return graph.node("Add", [before, values], f"{name}: sum") if placed.layer.residual else values


def _add_operation(
    graph: GraphBuilder, operation: Operation, name: str, constant: Callable[[str], str], values: str
) -> str:
    match operation:
        case Convolution():
            weights = constant("convolution.weight")
            attributes = convolution_attributes(operation)
            return graph.node("Conv", [values, weights], f"{name}: convolution", **attributes)
        case ReLU():
            return graph.node("Relu", [values], f"{name}: relu")
        case BatchNorm():
            numbers = [constant(f"batch_norm.{key}") for key in ("weight", "bias", "running_mean", "running_var")]
            return graph.node(
                "BatchNormalization", [values, *numbers], f"{name}: batch norm", epsilon=BATCH_NORM_EPSILON
            )
        case Dropout():
            return values
        case MaxPooling(size) | AveragePooling(size):
            kind, result = ("MaxPool", "maximum") if isinstance(operation, MaxPooling) else ("AveragePool", "mean")
            return graph.node(kind, [values], f"{name}: {result}", kernel_shape=[size] * 2, strides=[size] * 2)
        case GlobalAveragePooling():
            return graph.node("GlobalAveragePool", [values], f"{name}: mean")
