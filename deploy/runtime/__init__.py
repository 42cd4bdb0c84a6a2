"""Runners: one contract over PyTorch, ONNX Runtime, TensorRT and TensorRT-RTX."""
