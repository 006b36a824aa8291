"""Writing an ONNX file node by node, with names that a person can follow in a viewer."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.network.operations import Shape
from kilonet.utils.extras import needed_from

with needed_from("onnx"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

OPSET = 19
"""Of 2023, so that what reads ONNX today knows it; ONNX's own reference runs every node used here from this one on."""
IR_VERSION = 9
"""The file format that came with this opset."""
PIXELS = "pixels"
LOGITS = "logits"


class Graph:
    """A graph under construction: nodes in order, and the constants they refer to."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        """Keep an array of any dtype and shape in the file and return its name."""
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node that is named after its one output, and return that name."""
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def finish(
        self, name: str, shape: Shape, classes: int, *, about: str, properties: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return the model, checked: uint8 (batch, *shape) `pixels` in, float32 (batch, classes) `logits` out.

        Args:
            name: of the graph.
            shape: of one image: channels, rows, columns.
            classes: the number of logits.
            about: what the graph is and how to use it, for a person.
            properties: metadata by key, for a program.
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
            producer_version=version("kilonet"),
            doc_string=about,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_operatorsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(properties))
        onnx.checker.check_model(model, full_check=True)
        return model
