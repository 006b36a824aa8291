"""The ONNX forms: float32 and int8."""
