"""The ONNX forms: float32 and int8."""

FLOAT_FILE = "model.onnx"
INT8_FILE = "model-int8.onnx"
