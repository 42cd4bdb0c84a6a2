"""ONNX graphs → TensorRT and TensorRT-RTX plans: flavours, build, progress, preflight."""
