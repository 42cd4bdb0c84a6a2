"""``inspect --placement``: what becomes INT8 in a graph, by which rule, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, foreign, write_images

MACS = 16 * 3 * 9 * 32 * 32 + 16 * 5


@pytest.fixture(autouse=True)
def _graphs(empty: Path, cli: Cli) -> None:
    foreign(Path("net.onnx"))
    write_images(Path("photos"), 2)
    cli.done(
        "build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--calibration-method", "max",
        "--backend", "none",
    )  # fmt: skip


@pytest.mark.parametrize(("file", "planned"), [("net.onnx", True), ("net.int8.onnx", False)])
def test_as_json(cli: Cli, file: str, planned: bool):
    found = cli.done("inspect", file, "--placement", "--json").document["placement"]
    conv, classify = found.pop("choices")
    assert found == {
        "planned": planned,
        "int8_layers": 1,
        "weighted_layers": 2,
        "int8_mac_share": (MACS - 80) / MACS,
    }
    assert (conv["node"], conv["int8"], conv["rule"], conv["macs"]) == ("conv", True, "convolution", MACS - 80)
    assert (classify["node"], classify["int8"], classify["rule"]) == ("classify", False, "few channels")
    assert classify["why"] == "it has fewer than 16 output channels"


def test_for_people(cli: Cli):
    out = " ".join(cli.done("inspect", "net.int8.onnx", "--placement").out.split())
    assert "INT8 placement 1 of 2 weighted layers, 100.0 % of the multiply-accumulates" in out
    assert "conv Conv int8 99.98 convolution" in out
    assert "classify MatMul fp16 0.02 few channels" in out
    assert "few channels fp16 1 it has fewer than 16 output channels" in out
    assert "the INT8 graph to be made of it" in cli.done("inspect", "net.onnx", "--placement").out


def test_without_the_flag_one_line_of_an_int8_graph(cli: Cli):
    out = cli.done("inspect", "net.int8.onnx").out
    assert "INT8 placement" in out
    assert "few channels" not in out
    document = cli.done("inspect", "net.int8.onnx", "--json").document
    assert document["placement"].keys() == {"planned", "int8_layers", "weighted_layers", "int8_mac_share"}
    assert cli.done("inspect", "net.onnx", "--json").document["placement"] is None


def test_an_older_opset_is_lifted_as_build_does(cli: Cli):
    """Opset 13, as most tools write it, where a Cast to FP16 could not be placed."""
    for name in ("net.onnx", "net.int8.onnx"):
        model = onnx.load(name)
        model.opset_import[0].version = 13
        onnx.save(model, f"old.{name}")
        placed = [
            cli.done("inspect", file, "--placement", "--json").document["placement"] for file in (name, f"old.{name}")
        ]
        assert placed[0] == placed[1]


def test_an_int8_graph_that_cannot_be_explained_is_inspected(cli: Cli):
    model = onnx.load("net.int8.onnx")
    value = onnx.helper.make_tensor_value_info("branch", onnx.TensorProto.FLOAT, [1])
    constant = onnx.helper.make_node("Constant", [], ["branch"], value_floats=[1.0])
    branch = onnx.helper.make_graph([constant], "branch", [], [value])
    condition = onnx.helper.make_node("Constant", [], ["condition"], value=onnx.numpy_helper.from_array(np.array(True)))
    choice = onnx.helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.node.extend([condition, choice])
    onnx.save(model, "branching.int8.onnx")
    assert cli.done("inspect", "branching.int8.onnx", "--json").document["placement"] is None
    assert "control flow and functions" in cli.refused(2, "inspect", "branching.int8.onnx", "--placement")


@pytest.mark.parametrize("what", ["mobilenet_v3_small", "net.plan"])
def test_only_of_a_graph(cli: Cli, what: str):
    error = cli.refused(2, "inspect", what, "--placement")
    assert error.startswith(f"placement is a property of a graph, and {what} is none (expected an .onnx file)")


def test_not_of_an_fp16_graph(cli: Cli):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    assert "an FP16 graph has no INT8 placement" in cli.refused(2, "inspect", "net.fp16.onnx", "--placement")
