"""Export a trained network: as integers, C99, ONNX and an HTML page, and verify that all forms agree."""
