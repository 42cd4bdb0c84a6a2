"""``verify`` of an INT8 graph against the file that others made, which ``build`` simplified and equalized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli
from damage import damaged, replace, weight
from graphs import batch_norm, model, tensor
from graphs import weight as random_weight
from onnx import helper, numpy_helper

VERIFY = ("verify", "net.onnx")
DATA = ("--data", "images.npz")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(normed(), "net.onnx")
    images = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    np.savez("images.npz", image=images)


def normed() -> onnx.ModelProto:
    """conv → batch norm → ReLU, twice, and a classifier: channels are not followed through a batch norm."""
    nodes, weights, source = [], [], "image"
    for name, (inputs, outputs) in {"one": (3, 16), "two": (16, 24)}.items():
        norm, statistics = batch_norm(name, f"{name}.normed", outputs)
        weights += [random_weight(f"{name}.weight", outputs, inputs, 3, 3), *statistics]
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [name], pads=[1, 1, 1, 1], name=name))
        nodes += [norm, helper.make_node("Relu", [f"{name}.normed"], [f"{name}.relu"])]
        source = f"{name}.relu"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "head"], ["scores"], transB=1, name="head"))
    weights.append(random_weight("head", 16, 24))
    return model(nodes, [tensor("image", ("N", 3, 16, 16))], [tensor("scores", ["N", 16])], weights)


def test_weights_and_layers_are_compared_with_what_was_equalized(cli: Cli):
    built = cli.done(
        *("build", "net.onnx", "--precision", "int8", "--calibration-data", "images.npz", "--backend", "none", "--json")
    ).document
    assert built["manifest"]["quantization"]["equalization"] is not None
    report = cli.done(*VERIFY, "net.int8.onnx", *DATA, "--layers", "--json").document
    own = {loss["layer"]: loss["own_sqnr_db"] for loss in report["layers"]["tensors"] if loss["is_layer"]}
    assert len(own) == 3
    assert all(sqnr > 25 for sqnr in own.values())

    def roll(graph: onnx.ModelProto) -> None:
        levels = weight(graph, "head/quantized")
        replace(levels, np.roll(numpy_helper.to_array(levels), 1, axis=0))

    (verdict,) = cli(*VERIFY, damaged("net.int8.onnx", roll), *DATA, "--json").document["verdicts"]
    assert any("is not the reference's" in failure for failure in verdict["failures"])
