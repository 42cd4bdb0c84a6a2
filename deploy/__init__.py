"""Deploy PyTorch CNNs as ONNX graphs and TensorRT engines whose equivalence is measured, not assumed."""

__version__ = "0.1.0"
