"""A small network with every pattern the precision passes know, and ONNX Runtime to run it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Builds a graph node by node; weights are seeded, each layer keeps the size of its input."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        array = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, out: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{out}_node", **attributes))
        return out

    def conv(self, out: str, source: str, channels: tuple[int, int], size: int = 1, group: int = 1) -> str:
        inner, outer = channels
        weight = self.weight(f"{out}.weight", outer, inner // group, size, size)
        bias = self.weight(f"{out}.bias", outer)
        return self.op("Conv", out, source, weight, bias, group=group, pads=[size // 2] * 4)

    def model(self, output: str, shape: list[object], opset: int = 19) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))

    def shuffle(self, kept_reader: str | None = None) -> ir.Model:
        """A stem of 32 channels, then ``first`` and ``second``, units of ShuffleNet V2, then a convolution ``out``.

        ``kept_reader`` is an operator for the half that passes the first unit by.
        """
        stem = self.op("Relu", "stem", self.conv("stem_conv", "input", (3, 32)))
        second = self._shuffle_unit("second", self._shuffle_unit("first", stem, kept_reader))
        return self.model(self.conv("out", second, (32, 32)), ["batch", 32, 16, 16])

    def _shuffle_unit(self, name: str, source: str, kept_reader: str | None = None) -> str:
        kept, filtered = halves = [f"{name}.a", f"{name}.b"]
        self.nodes.append(helper.make_node("Split", [source], halves, f"{name}_split", axis=1, num_outputs=2))
        kept = self.op(kept_reader, f"{name}.read", kept) if kept_reader else kept
        filtered = self.op("Relu", f"{name}.relu", self.conv(f"{name}.conv", filtered, (16, 16)))
        joined = self.op("Concat", f"{name}.joined", kept, filtered, axis=1)
        shapes = [
            self.constant(f"{name}.{len(shape)}d", np.array(shape)) for shape in ([-1, 2, 16, 16, 16], [-1, 32, 16, 16])
        ]
        grouped = self.op("Reshape", f"{name}.grouped", joined, shapes[0])
        dealt = self.op("Transpose", f"{name}.dealt", grouped, perm=[0, 2, 1, 3, 4])
        return self.op("Reshape", name, dealt, shapes[1])


def _mini(net: Net) -> ir.Model:
    """Stem, SE block with a skip, a narrow conv, a Concat of two convs, pool and classifier."""
    stem = net.op("Relu", "stem", net.conv("stem_conv", "input", (3, 16), 3))
    wide = net.op("HardSwish", "wide", net.conv("wide_conv", stem, (16, 32)))
    deep = net.op("HardSwish", "deep", net.conv("deep_conv", wide, (32, 32), 3, group=32))
    pooled = net.op("ReduceMean", "pooled", deep, net.constant("axes", np.array([2, 3])), keepdims=1)
    squeezed = net.op("Relu", "squeezed", net.conv("fc1", pooled, (32, 24)))
    gate = net.op("HardSigmoid", "gate", net.conv("fc2", squeezed, (24, 32)))
    block = net.op("Add", "block", net.conv("project", net.op("Mul", "scaled", gate, deep), (32, 16)), stem)
    narrow = net.op("Relu", "narrow", net.conv("narrow_conv", block, (16, 8)))
    left = net.op("Relu", "left", net.conv("left_conv", narrow, (8, 16)))
    right = net.op("Relu", "right", net.conv("right_conv", left, (16, 16), 3))
    joined = net.op("Concat", "joined", left, right, axis=1)
    top = net.op("Relu", "top", net.conv("top_conv", joined, (32, 32)))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "average", top))
    return net.op("Gemm", "logits", flat, net.weight("head.weight", 20, 32), net.weight("head.bias", 20), transB=1)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def mini(net: Net) -> ir.Model:
    return net.model(_mini(net), ["batch", 20])


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)


Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def run() -> Run:
    """Checks a model with onnx, runs it, returns its outputs (or the tensors named) by name."""

    def run(model: ir.Model, feed: np.ndarray, *tensors: str) -> dict[str, np.ndarray]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        outputs = [value.name for value in proto.graph.output]
        proto.graph.output.extend(helper.make_empty_tensor_value_info(t) for t in tensors if t not in outputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        # It quantizes biases with a product of scales that underflows in FP16: not what the graph says.
        broken = ["WeightBiasQuantization"]
        session = ort.InferenceSession(proto.SerializeToString(), options, disabled_optimizers=broken)
        names = list(tensors) or outputs
        return dict(zip(names, session.run(names, {"input": feed}), strict=True))

    return run


@pytest.fixture
def ranges(run: Run, images: np.ndarray) -> Callable[..., dict[str, float]]:
    """max |x| of tensors over :func:`images`."""

    def ranges(model: ir.Model, tensors: tuple[str, ...]) -> dict[str, float]:
        seen = {**run(model, images, *(t for t in tensors if t != "input")), "input": images}
        return {name: float(np.abs(seen[name]).max()) for name in tensors}

    return ranges
