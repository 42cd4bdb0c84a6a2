"""Weights in a second file, and graphs beyond what one file holds: that limit is lowered to what tests can make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, foreign, snapshot
from graphs import saved, tensor, weight
from onnx import helper

from deploy.artifacts import sha256_file
from deploy.graph import files

node = helper.make_node


@pytest.fixture
def large(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``large.onnx`` with ``large.bin``, too large for one file in every precision but INT8."""
    nodes = [node("MatMul", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w2"], ["y"])]
    weights = [weight("w1", 200, 300), weight("w2", 300, 20)]
    saved("large.onnx", nodes, [tensor("x", ["N", 200])], [tensor("y", ["N", 20])], weights, opset=17)
    proto = onnx.load("large.onnx")
    onnx.save(proto, "large.onnx", save_as_external_data=True, location="large.bin", size_threshold=0)
    monkeypatch.setattr(files, "LIMIT", 100_000)
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(16, 200)).astype(np.float32))
    return here


def test_the_whole_way(cli: Cli, large: Path):
    built = cli.done("build", "large.onnx", "--precision", "fp16", "--calibration-data", "data.npz", "--json")
    assert "large.onnx is not simplified: it has more weights than onnxsim can take" in built.err
    assert built.document["verdicts"]["graph"]["sqnr_db"] > 40
    assert Path("large.fp16.onnx").stat().st_size < 10_000
    assert Path("large.fp16.onnx.data").stat().st_size == 2 * (200 * 300 + 300 * 20)
    assert Path("large.fp16.rtx.plan").stat().st_size > 2 * 200 * 300
    entries = [each.external_data for each in onnx.load("large.fp16.onnx", load_external_data=False).graph.initializer]
    locations = {entry.value for each in entries for entry in each if entry.key == "location"}
    assert locations == {"large.fp16.onnx.data"}
    engine = json.loads(Path("large.fp16.rtx.plan.json").read_text())["engine"]
    assert (engine["onnx_file"], engine["onnx_sha256"]) == ("large.fp16.onnx", sha256_file(Path("large.fp16.onnx")))
    verdict = cli.done("verify", "large.onnx", "large.fp16.onnx", "--data", "data.npz", "--json").document["verdicts"][
        0
    ]
    assert verdict["execution"] == "simulated on CPU by the twin of the FP16 graph"
    cli.done("inspect", "large.fp16.onnx")
    assert not [path for path in large.iterdir() if path.name.startswith(".")]


def test_the_pair_travels_together(cli: Cli, large: Path):
    cli.done("build", "large.onnx", "--precision", "fp16", "--backend", "none")
    Path("away").mkdir()
    for name in ("large.fp16.onnx", "large.fp16.onnx.data"):
        shutil.move(name, f"away/{name}")
    cli.done("build", "away/large.fp16.onnx", "--precision", "fp16")
    cli.done("verify", "large.onnx", "away/large.fp16.onnx")
    Path("away/large.fp16.onnx.data").unlink()
    error = cli.refused(2, "build", "away/large.fp16.onnx", "--precision", "fp16")
    assert error.endswith("Copy it with its graph: the two are one model.")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_other_precisions(cli: Cli, large: Path, precision: str):
    argv = ("large.onnx", "--precision", precision, "--calibration-data", "data.npz", "--json")
    built = cli.done("build", *argv).document
    assert Path(built["plan"]).is_file()
    assert not Path("large.int8.onnx.data").exists()
    if precision == "int8":
        again = cli.done("build", *argv[:-1])
        assert "reusing the ranges in large.int8.calib.json" in again.err


def test_a_build_that_fails_leaves_both_files_as_they_were(cli: Cli, large: Path, monkeypatch: pytest.MonkeyPatch):
    cli.done("build", "large.onnx", "--precision", "fp16")
    before = snapshot(large)
    monkeypatch.setattr("deploy.workflows.build.build_engine", lambda *_, **__: 1 / 0)
    assert cli("build", "large.onnx", "--precision", "fp16").code != 0
    assert snapshot(large) == before


def test_the_weights_of_the_source_are_not_overwritten(cli: Cli, large: Path):
    graph = onnx.load("large.onnx")
    onnx.save(graph, "here.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    argv = ("here.onnx", "--precision", "fp16", "--backend", "none", "-o", "out.onnx")
    assert cli.refused(2, "build", *argv).startswith("out.onnx.data is the graph to build from")


def test_small_graphs_of_two_files_become_one(cli: Cli, here: Path):
    model = onnx.load(foreign(Path("foreign.onnx")))
    onnx.save(model, "two.onnx", save_as_external_data=True, location="two.bin", size_threshold=0)
    cli.done("build", "two.onnx", "--precision", "fp16", "--backend", "none")
    Path("two.bin").unlink()
    cli.done("infer", "--engine", "two.fp16.onnx", "photos")
    assert not Path("two.fp16.onnx.data").exists()


def test_a_graph_in_another_folder(cli: Cli, large: Path, monkeypatch: pytest.MonkeyPatch):
    """Its weights are found beside it, also after its opset was raised."""
    elsewhere = large / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    argv = ("../large.onnx", "--precision", "fp16", "--calibration-data", "../data.npz", "--backend", "none")
    assert cli.done("build", *argv, "--json").document["verdicts"]["graph"]["sqnr_db"] > 40


def test_weights_in_constant_nodes(cli: Cli, here: Path):
    value = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32), "w")
    nodes = [node("Constant", [], ["w"], value=value), node("MatMul", ["x", "w"], ["y"])]
    saved("constant.onnx", nodes, [tensor("x", ["N", 64])], [tensor("y", ["N", 32])], [])
    proto = onnx.load("constant.onnx")
    onnx.save(
        proto, "constant.onnx", save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True
    )
    assert Path("w.bin").stat().st_size == 4 * 64 * 32
    built = cli.done("build", "constant.onnx", "--precision", "fp16", "--backend", "none", "--json")
    assert built.document["verdicts"]["graph"]["sqnr_db"] > 40
