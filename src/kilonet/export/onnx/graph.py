"""Build an ONNX file node by node, with node names that are readable in a viewer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kilonet
from kilonet.data.preprocessing import preprocessing_facts
from kilonet.models.model import Model
from kilonet.network.operations import Convolution, Shape
from kilonet.utils.extras import needed_from

with needed_from("onnx"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""Published in 2022, so that runtimes of 2023 take the files; docs/ONNX.md names those that were tried."""
IR_VERSION = 8
"""The version of the file format that was published with this opset."""
PIXELS = "pixels"
LOGITS = "logits"

USAGE = f"Feed uint8 images to '{PIXELS}'; they are normalised inside. The class is the argmax of '{LOGITS}'."
"""For the description in the file."""


def convolution_attributes(operation: Convolution) -> dict[str, Any]:
    """Return the attributes of the node of a convolution."""
    strides = {} if operation.stride == 1 else {"strides": [operation.stride] * 2}
    kernel = {"kernel_shape": [operation.kernel] * 2, "pads": [operation.padding] * 4, "group": operation.groups}
    return {**kernel, **strides}


class GraphBuilder:
    """Collects the nodes of a graph in order and the constants that they refer to."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        """Add an array of any dtype and shape and return its name."""
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node, named after its only output, and return that name."""
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def build(
        self, name: str, shape: Shape, classes: int, *, about: str, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return the checked model: input `pixels`, uint8 (batch, *shape); output `logits`, float32 (batch, classes).

        Args:
            name: name of the graph.
            shape: channels, rows and columns of an image.
            classes: the number of logits.
            about: description for people.
            metadata: further information for programs, by key.
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", *shape])],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", classes])],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="kilonet",
            producer_version=kilonet.__version__,
            doc_string=about,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_operatorsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def onnx_metadata(model: Model, accuracy: float | None) -> dict[str, str]:
    """Return the metadata of an ONNX file by key: network, preprocessing, names, calibration, accuracy if known."""
    metadata = model.metadata
    known = {} if accuracy is None else {"kilonet.test_accuracy": f"{accuracy:.6g}"}
    preprocessing = preprocessing_facts(model.section, reads_digits=model.reads_digits)
    if preprocessing is not None:
        known["kilonet.preprocessing"] = preprocessing.model_dump_json()
    if metadata.names is not None:
        known["kilonet.class_names"] = json.dumps(metadata.names, ensure_ascii=False)
    if metadata.calibration is not None:
        known["kilonet.calibration"] = metadata.calibration.model_dump_json()
    return {
        "kilonet.network.layers": json.dumps(model.section.layers),
        "kilonet.input": json.dumps(model.section.input_shape),
        "kilonet.parameters": str(model.section.parameters),
        "kilonet.reads_digits": json.dumps(model.reads_digits),
        "kilonet.model_sha256": model.sha256,
        **known,
    }
