"""ONNX graphs: export, simplification, precision, summary; a pass takes a model and returns a new one."""
