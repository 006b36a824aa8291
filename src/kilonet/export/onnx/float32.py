"""A trained network as two ONNX files: float, read off the list of layers, and int8, read off the integer network.

Both take uint8 pixels in batches of any size and give float32 logits in the same unit. docs/ONNX.md says how the
integers of docs/INTEGER.md are written in QuantizeLinear and DequantizeLinear, and where floats may round differently.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import accuracy_of, evaluate
from kilonet.export.folding import BATCH_NORM_EPSILON
from kilonet.export.integer import SPECIFICATION, IntegerNetwork, logits
from kilonet.export.onnx.graph import LOGITS, OPSET, PIXELS, Graph
from kilonet.export.onnx.int8 import add_operation
from kilonet.models.model import Model
from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import (
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
)
from kilonet.utils.extras import needed_from
from kilonet.utils.files import write_atomically

with needed_from("onnx"):
    from onnx import ModelProto, TensorProto

FLOAT_FILE = "model.onnx"
INT8_FILE = "model-int8.onnx"

_USE = f"Feed uint8 images to '{PIXELS}'; they are normalised inside. The class is the argmax of '{LOGITS}'."


def write_onnx(model: Model, network: IntegerNetwork, folder: Path, test: Images) -> dict[str, int]:
    """Write `model.onnx` and `model-int8.onnx` into a folder and return their sizes in bytes by name.

    Args:
        model: the trained network.
        network: its integer network.
        folder: where to; it must exist.
        test: its test images, whose accuracy the files tell.

    Raises:
        KilonetError: the test images are not the model's, or a file cannot be written.
    """
    trained = evaluate(model, test).accuracy
    integers = accuracy_of(logits(network, test.pixels.numpy()), test.labels.numpy())
    files = {
        FLOAT_FILE: float_graph(model, trained).SerializeToString(deterministic=True),
        INT8_FILE: int8_graph(model, network, integers).SerializeToString(deterministic=True),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return {name: len(content) for name, content in files.items()}


def float_graph(model: Model, accuracy: float | None = None) -> ModelProto:
    """Return the trained network as it is, a node for every operation of its list of layers.

    Args:
        model: the trained network.
        accuracy: of the graph on the test images, a fraction, where it is known; kept in the file.
    """
    section, graph = model.section, Graph()
    values = _normalise(graph, section.mean, section.std)
    state = model.network.state()
    for placed in section.placed:
        values = _add_layer(graph, placed, state, values)
    graph.node("Flatten", [values], LOGITS, axis=1)
    about = f"Float network, ONNX opset {OPSET}. {_USE}"
    return graph.finish(
        "float", section.input_shape, section.classes, about=about, properties=_properties(model, accuracy)
    )


def int8_graph(model: Model, network: IntegerNetwork, accuracy: float | None = None) -> ModelProto:
    """Return the integer network as pairs of QuantizeLinear and DequantizeLinear; logits are in the float's unit.

    Args:
        model: the trained network, for what the file says of it.
        network: its integer network.
        accuracy: of the integer network on the test images, a fraction, where it is known; kept in the file.
    """
    graph = Graph()
    values = PIXELS
    last = len(network.operations)
    for number, operation in enumerate(network.operations, 1):
        values = add_operation(graph, operation, str(number), values, network.fraction_bits if number == last else None)
    graph.node("Flatten", [values], LOGITS, axis=1)
    about = f"Integer network (8-bit weights and activations) with QDQ pairs, ONNX opset {OPSET}. {_USE}"
    properties = {
        **_properties(model, accuracy),
        "kilonet.integer_specification": str(SPECIFICATION),
        "kilonet.fraction_bits": str(network.fraction_bits),
    }
    return graph.finish("int8", network.input_shape, network.classes, about=about, properties=properties)


def _properties(model: Model, accuracy: float | None) -> dict[str, str]:
    known = {} if accuracy is None else {"kilonet.test_accuracy": f"{accuracy:.6g}"}
    return {
        "kilonet.network.layers": json.dumps(model.section.layers),
        "kilonet.input": json.dumps(model.section.input_shape),
        "kilonet.parameters": str(model.section.parameters),
        "kilonet.model_sha256": model.sha256,
        **known,
    }


def _normalise(graph: Graph, mean: float, std: float) -> str:
    """Write what the trained network does to its pixels, in the same order, so that the floats are the same."""
    values = graph.node("Cast", [PIXELS], "pixels as float", to=TensorProto.FLOAT)
    centred = graph.node("Sub", [values, graph.constant("mean", np.float32(255 * mean))], "centred")
    return graph.node("Div", [centred, graph.constant("std", np.float32(255 * std))], "normalised")


def _add_layer(graph: Graph, placed: PlacedLayer, state: Mapping[str, Tensor], before: str) -> str:
    values, name = before, f"{placed.number + 1} {placed.layer}"

    def constant(key: str) -> str:
        tensor = placed.tensor_name(key)
        return graph.constant(tensor, state[tensor].detach().numpy())

    for operation in placed.operations:
        values = _add_float(graph, operation, name, constant, values)
    return graph.node("Add", [before, values], f"{name}: sum") if placed.layer.residual else values


def _add_float(graph: Graph, operation: Operation, name: str, constant: Callable[[str], str], values: str) -> str:
    match operation:
        case Convolution(_, _, kernel, padding, groups):
            weights = constant("convolution.weight")
            attributes = {"kernel_shape": [kernel] * 2, "pads": [padding] * 4, "group": groups}
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
        case MaxPooling(size):
            return graph.node("MaxPool", [values], f"{name}: maximum", kernel_shape=[size] * 2, strides=[size] * 2)
        case GlobalAveragePooling():
            return graph.node("GlobalAveragePool", [values], f"{name}: mean")
