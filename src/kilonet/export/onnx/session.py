"""Run an exported ONNX file in onnxruntime, after checking that it is one of Kilonet's and refers to no other file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.export.onnx.graph import LOGITS, PIXELS
from kilonet.network.operations import Shape, check_pixels
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.files import read_bounded

with needed_from("onnx"):
    import onnx
    import onnxruntime
    from google.protobuf.message import Message

MAXIMUM_BYTES = 64 << 20
_BATCH = 1000
_LOG_FATAL_ONLY = 4
"""onnxruntime's level of logging; it raises its errors as well, so they need not appear on the terminal."""


class OnnxSession:
    """An exported ONNX file that runs in one thread of the CPU."""

    def __init__(self, path: Path, input_shape: Shape, classes: int) -> None:
        """Check and load a file.

        Args:
            path: the file.
            input_shape: channels, rows and columns of the input it must have.
            classes: number of logits it must give.

        Raises:
            KilonetError: it is missing or damaged, has another input or output, or refers to data outside the file.
        """
        self._path, self._shape, self._classes = path, input_shape, classes
        model = _read(path)
        if mismatch := _mismatch(model.graph, input_shape, classes):
            raise KilonetError(f"{path}: not the ONNX file of this model: {mismatch}")
        self._session = _start(path, model)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score images: uint8 (N, channels, rows, columns) to float32 (N, classes).

        Raises:
            KilonetError: pixels of another shape or dtype, or a graph that does not run.
        """
        check_pixels(pixels, self._shape)
        parts = [self._run(part) for part in _batches(pixels)]
        return np.concatenate([np.empty((0, self._classes), np.float32), *parts])

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run([LOGITS], {PIXELS: pixels})[0]
        except Exception as error:  # noqa: BLE001 - its errors have no common base
            raise KilonetError(f"{self._path}: onnxruntime cannot run it: {_first_line(error)}") from None
        if logits.shape != (len(pixels), self._classes) or logits.dtype != np.float32:
            raise KilonetError(f"{self._path}: it does not give float32 ({len(pixels)}, {self._classes})")
        return logits


def _batches(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]


def _read(path: Path) -> onnx.ModelProto:
    content = read_bounded(path, MAXIMUM_BYTES, "an ONNX file of Kilonet")
    try:
        model = onnx.load_model_from_string(content)
        # First of all, as the libraries would read the other file.
        if _refers_elsewhere(model):
            raise KilonetError("it refers to data outside the file")
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # noqa: BLE001 - a damaged file makes protobuf and onnx raise errors of many kinds
        raise KilonetError(f"{path}: not a usable ONNX file: {_first_line(error)}") from None
    return model


def _refers_elsewhere(message: Message) -> bool:
    """Return whether any tensor of a message, however deep, has its data in another file."""
    if isinstance(message, onnx.TensorProto):
        return bool(message.external_data) or message.data_location == onnx.TensorProto.EXTERNAL
    fields = (value for field, value in message.ListFields() if field.message_type is not None)
    return any(_refers_elsewhere(one) for value in fields for one in ([value] if isinstance(value, Message) else value))


def _mismatch(graph: onnx.GraphProto, input_shape: Shape, classes: int) -> str | None:
    if [value.name for value in graph.input] != [PIXELS] or [value.name for value in graph.output] != [LOGITS]:
        return f"its input and output are not '{PIXELS}' and '{LOGITS}'"
    pixels, logits = graph.input[0].type.tensor_type, graph.output[0].type.tensor_type
    if pixels.elem_type != onnx.TensorProto.UINT8 or _dimensions(pixels) != [0, *input_shape]:
        return f"'{PIXELS}' is not uint8 (batch, {', '.join(map(str, input_shape))})"
    if logits.elem_type != onnx.TensorProto.FLOAT or _dimensions(logits) != [0, classes]:
        return f"'{LOGITS}' is not float32 (batch, {classes})"
    return None


def _dimensions(tensor: onnx.TypeProto.Tensor) -> list[int]:
    """Return a tensor's shape; a dimension that is not fixed, such as the batch, is 0."""
    return [dimension.dim_value for dimension in tensor.shape.dim]


def _start(path: Path, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no common base
        raise KilonetError(f"{path}: onnxruntime cannot run it: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
