"""Other tools' graphs of several inputs and outputs, of any type, with and without a batch axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from graphs import constant, saved, tensor, weight
from onnx import TensorProto, helper

node = helper.make_node
INT64, BOOL = TensorProto.INT64, TensorProto.BOOL


@pytest.fixture
def two(empty: Path) -> None:
    """``two.onnx``: an image and three ids pick from a table; scores, their argmax and whether they are positive."""
    nodes = [
        node("Conv", ["image", "kernel"], ["convolved"], pads=[1] * 4),
        node("Relu", ["convolved"], ["activated"]),
        node("Conv", ["activated", "kernel2"], ["again"], pads=[1] * 4),
        node("GlobalAveragePool", ["again"], ["pooled"]),
        node("Flatten", ["pooled"], ["seen"]),
        node("Gather", ["table", "ids"], ["rows"]),
        node("ReduceMean", ["rows", "axis"], ["known"], keepdims=0),
        node("Add", ["seen", "known"], ["features"]),
        node("MatMul", ["features", "head"], ["scores"]),
        node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        node("Greater", ["scores", "zero"], ["positive"]),
    ]
    weights = [weight("kernel", 16, 3, 3, 3), weight("kernel2", 16, 16, 3, 3), weight("table", 40, 16)]
    weights += [weight("head", 16, 6), constant("axis", [1], np.int64), constant("zero", 0)]
    outputs = [tensor("scores", ["N", 6]), tensor("best", ["N"], INT64), tensor("positive", ["N", 6], BOOL)]
    saved("two.onnx", nodes, [tensor("image", ["N", 3, 16, 16]), tensor("ids", ["N", 3], INT64)], outputs, weights)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((24, 3, 16, 16)).astype(np.float32)
    np.savez("two.npz", image=images, ids=rng.integers(0, 40, (24, 3)))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("data", [(), ("--calibration-data", "two.npz")])
def test_several_inputs_and_outputs(cli: Cli, two: None, precision: str, data: tuple[str, ...]):
    built = cli.done("build", "two.onnx", "--precision", precision, *data, "--batch", "1:4:16", "--json").document
    assert built["manifest"]["engine"]["batch"] == {"min": 1, "opt": 4, "max": 16}
    assert [spec["dtype"] for spec in built["manifest"]["outputs"]] == ["float32", "int64", "bool"]


def test_int8_of_several_inputs(cli: Cli, two: None):
    built = cli.done("build", "two.onnx", "--precision", "int8", "--calibration-data", "two.npz", "--json").document
    assert built["manifest"]["quantization"]["int8_layers"] == 2
    assert built["verdicts"]["graph"]["samples"] == 24
    verdict = cli.done("verify", "two.onnx", "two.int8.onnx", "--data", "two.npz", "--json").document["verdicts"][0]
    assert verdict["outputs"].keys() == {"scores", "best", "positive"}
    assert 0.75 <= verdict["outputs"]["best"]["agreement"] <= 1
    assert verdict["outputs"]["scores"]["agreement"] is None
    cli.done("inspect", "two.int8.onnx")


def test_ids_are_made_up_within_their_table(cli: Cli, two: None):
    """An id beyond it would be an error of ONNX Runtime's; of few ids the table would hardly be seen."""
    cli.done("build", "two.onnx", "--precision", "fp16", "--backend", "none")
    verdict = cli.done("verify", "two.onnx", "two.fp16.onnx", "--json").document["verdicts"][0]
    assert verdict["outputs"]["scores"]["sqnr_db"] > 40


def test_images_alone_do_not_feed_it(cli: Cli, two: None):
    Path("photos").mkdir()
    error = cli.refused(2, "build", "two.onnx", "--precision", "int8", "--calibration-data", "photos")
    assert error.endswith("Give an .npz file with arrays named image, ids instead.")


def test_an_output_that_disagrees_is_named(cli: Cli, two: None):
    """Another table gives other scores, and other classes."""
    import onnx

    graph = onnx.load("two.onnx")
    for each in graph.graph.initializer:
        if each.name == "table":
            each.CopyFrom(weight("table", 40, 16, seed=9))
    onnx.save(graph, "other.onnx")
    result = cli("verify", "two.onnx", "other.onnx", "--json")
    assert result.code == 1
    failures = " ".join(result.document["verdicts"][0]["failures"])
    assert "scores: relative error" in failures
    assert "best: " in failures
    assert "of the elements agree, under 99 %" in failures


def _mixer(path: str, batch: object) -> None:
    """``scaled`` follows the batch; ``table``, ``factor`` and ``shared`` do not."""
    nodes = [
        node("Conv", ["image", "kernel"], ["convolved"], pads=[1] * 4),
        node("GlobalAveragePool", ["convolved"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "table"], ["scores"]),
        node("Mul", ["scores", "factor"], ["scaled"]),
        node("ReduceMean", ["table", "axis"], ["shared"], keepdims=0),
    ]
    inputs = [tensor("factor", []), tensor("image", [batch, 3, 16, 16]), tensor("table", [16, 5])]
    outputs = [tensor("scaled", [batch, 5]), tensor("shared", [5])]
    saved(path, nodes, inputs, outputs, [weight("kernel", 16, 3, 3, 3), constant("axis", [0], np.int64)])


@pytest.mark.parametrize("batch", ["N", 1, 5])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_does_not_follow_the_batch(cli: Cli, empty: Path, batch: object, precision: str):
    _mixer("mixer.onnx", batch)
    rng = np.random.default_rng(0)
    arrays = {"image": (9, 3, 16, 16), "table": (16, 5), "factor": ()}
    np.savez("data.npz", **{name: np.asarray(rng.normal(size=s), np.float32) for name, s in arrays.items()})
    data = ("--calibration-data", "data.npz")
    built = cli.done("build", "mixer.onnx", "--precision", precision, *data, "--json").document
    size = {"min": 1, "opt": 8, "max": 32} if batch == "N" else {"min": batch, "opt": batch, "max": batch}
    assert built["manifest"]["engine"]["batch"] == size
    if precision == "fp16":
        cli.done("build", "mixer.onnx", "--precision", "fp16")
        cli.done("verify", "mixer.onnx", "mixer.fp16.onnx", "--data", "data.npz")


@pytest.mark.parametrize("shape", [[7], []])
def test_no_batch_axis_at_all(cli: Cli, empty: Path, shape: list[int]):
    nodes = [node("Mul", ["x", "two"], ["doubled"]), node("Tanh", ["doubled"], ["y"])]
    saved("vector.onnx", nodes, [tensor("x", shape)], [tensor("y", shape)], [constant("two", 2)])
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32))
    for precision in ("fp32", "fp16"):
        for data in ((), ("--calibration-data", "data.npz")):
            built = cli.done("build", "vector.onnx", "--precision", precision, *data, "--json").document
            assert built["manifest"]["engine"]["batch"] == {"min": 1, "opt": 1, "max": 1}
    cli.done("verify", "vector.onnx", "vector.fp16.onnx", "--data", "data.npz")


def test_an_argmax_alone_is_compared_by_agreement(cli: Cli, empty: Path):
    nodes = [node("MatMul", ["x", "w"], ["scores"]), node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0)]
    saved("best.onnx", nodes, [tensor("x", ["N", 20])], [tensor("best", ["N"], INT64)], [weight("w", 20, 9)])
    built = cli.done("build", "best.onnx", "--precision", "fp16", "--json").document
    assert built["verdicts"]["graph"]["agreement"] >= 0.9
