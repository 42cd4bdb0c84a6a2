"""Other tools' image graphs: channels last, bytes, any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, foreign
from graphs import constant, saved, tensor, weight
from onnx import TensorProto, helper

node = helper.make_node


def channels_last(path: str, dtype: int, shape: list[object]) -> Path:
    """What TensorFlow's exporters write: a Transpose before the first convolution, for bytes a Cast and a scale."""
    nodes = [
        node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        node("Mul", ["values", "factor"], ["scaled"]),
        node("Transpose", ["scaled"], ["first"], perm=[0, 3, 1, 2]),
        node("Conv", ["first", "kernel"], ["convolved"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Relu", ["convolved"], ["activated"]),
        node("ReduceMean", ["activated", "axes"], ["pooled"], keepdims=0),
        node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    factor = constant("factor", 1 / 255 if dtype == TensorProto.UINT8 else 1)
    weights = [weight("kernel", 32, 3, 3, 3), weight("head", 32, 5), factor, constant("axes", [2, 3], np.int64)]
    return saved(path, nodes, [tensor("image", shape, dtype)], [tensor("scores", [shape[0], 5])], weights)


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.FLOAT])
@pytest.mark.parametrize("batch", ["N", 1])
def test_channels_last(cli: Cli, here: Path, dtype: int, batch: object):
    channels_last("last.onnx", dtype, [batch, 32, 32, 3])
    said = ", raw pixels'" if dtype == TensorProto.UINT8 else "' with ImageNet's mean and std"
    for precision in ("fp32", "fp16", "int8"):
        argv = ("last.onnx", "--precision", precision, "--calibration-data", "photos", "--json")
        built = cli.done("build", *argv)
        assert f"assuming preprocessing 'resize 37 bilinear, crop 32x32{said}" in built.err
        assert built.document["verdicts"]["graph"]["samples"] == 12 if precision != "fp32" else True
    plain = cli.done("infer", "--engine", "last.onnx", "photos", "--json").document["images"]
    half = cli.done("infer", "--engine", "last.fp16.onnx", "photos", "--json").document["images"]
    assert len(plain) == 12
    for one, other in zip(plain, half):
        assert one["predictions"][0]["probability"] == pytest.approx(other["predictions"][0]["probability"], abs=0.01)
    cli.done("verify", "last.onnx", "last.int8.onnx", "--data", "photos")


def test_channels_last_and_first_of_one_network_agree(cli: Cli, here: Path):
    """The same weights give the same answers, whichever way round the pixels come."""
    foreign(Path("first.onnx"))
    graph = onnx.load("first.onnx")
    image = graph.graph.input[0]
    graph.graph.node[0].input[0] = "turned"
    graph.graph.node.insert(0, node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]))
    image.CopyFrom(tensor("image", ["N", 32, 32, 3]))
    onnx.save(graph, "last.onnx")
    first, last = (
        cli.done("infer", "--engine", name, "photos", "--json").document["images"]
        for name in ("first.onnx", "last.onnx")
    )
    assert [each["predictions"][0]["index"] for each in first] == [each["predictions"][0]["index"] for each in last]
    assert first[3]["predictions"][0]["probability"] == pytest.approx(
        last[3]["predictions"][0]["probability"], rel=1e-5
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_open_image_size_is_fixed_by_the_build(cli: Cli, here: Path, precision: str):
    foreign(Path("any.onnx"), ("N", 3, "H", "W"))
    before = Path("any.onnx").read_bytes()
    argv = ("any.onnx", "--precision", precision, "--image-size", 48, "--calibration-data", "photos", "--json")
    built = cli.done("build", *argv).document
    assert built["manifest"]["inputs"][0]["shape"] == ["N", 3, 48, 48]
    assert built["manifest"]["preprocessing"]["crop"] == [48, 48]
    assert Path("any.onnx").read_bytes() == before
    if precision != "fp32":
        shape = onnx.load(built["onnx"]).graph.input[0].type.tensor_type.shape
        assert [dim.dim_value for dim in shape.dim][1:] == [3, 48, 48]


def test_an_image_size_that_is_not_asked_for(cli: Cli, here: Path):
    foreign(Path("fixed.onnx"))
    error = cli.refused(2, "build", "fixed.onnx", "--precision", "fp16", "--image-size", 48)
    assert error.startswith("no input leaves its image size open (got --image-size 48x48)")


def test_another_open_axis_is_refused(cli: Cli, empty: Path):
    nodes = [node("Softmax", ["x"], ["y"])]
    saved("text.onnx", nodes, [tensor("x", ["N", "length", 8])], [tensor("y", ["N", "length", 8])])
    error = cli.refused(2, "build", "text.onnx", "--precision", "fp16")
    assert error == (
        "input 'x' of text.onnx has a dynamic axis other than the batch (got x float32[N, length, 8]; expected only "
        "the first axis dynamic). Export the model with this axis fixed."
    )
