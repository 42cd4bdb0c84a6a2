"""The verb build: artefacts, their names and places, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, foreign, script, snapshot

from deploy.artifacts import sha256_file
from deploy.manifest import Manifest
from deploy.specs import Precision

INT8 = ("--precision", "int8")
DATA = ("--calibration-data", "photos")
GRAPH = ("--backend", "none")


def new_files(before: dict[str, str], folder: Path) -> set[str]:
    return set(snapshot(folder)) - set(before)


@pytest.fixture(autouse=True)
def rtx():
    """Every build here is real: without TensorRT-RTX these tests would prove nothing."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no package for this platform")


def test_the_script_builds_int8_and_prints_one_document(here: Path):
    before = snapshot(here)
    result = script("build_engine", "net.onnx", *INT8, *DATA, "--backend", "tensorrt_rtx", "--json", cwd=here)
    assert result.code == 0, result.err
    document = result.document
    made = {"net.int8.onnx", "net.int8.calib.json", "net.int8.rtx.plan", "net.int8.rtx.plan.json"}
    assert new_files(before, here) == made
    assert (document["onnx"], document["plan"]) == ("net.int8.onnx", "net.int8.rtx.plan")
    assert set(document["seconds"]) == {"quantize", "verify", "build"}
    assert any("parsed and compiled by" in text and "no GPU here" in text for text in document["evidence"])
    assert json.loads((here / "net.int8.rtx.plan.json").read_text()) == document["manifest"]
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


def test_the_plans_manifest_describes_plan_graph_and_build(cli: Cli, here: Path):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx", "--batch", "2:4:8")
    plan = Path("net.fp16.rtx.plan")
    manifest = Manifest.from_json(Path("net.fp16.rtx.plan.json").read_text(), "it")
    engine = manifest.engine
    assert engine is not None
    assert (manifest.precision, str(engine.batch), engine.flavour) == (Precision.FP16, "2:4:8", "tensorrt_rtx")
    assert engine.plan_sha256 == sha256_file(plan)
    assert (engine.onnx_file, engine.onnx_sha256) == ("net.fp16.onnx", sha256_file(Path("net.fp16.onnx")))
    assert engine.options["strongly_typed"] is True
    assert manifest.weights.source == "random"
    assert [figures["against"] for figures in manifest.parity] == ["pytorch", "the FP32 graph"]
    assert manifest.parity[1]["how"] == "simulated"
    assert plan.read_bytes()[:4] == b"vtrt", "nothing is put before the plan"


def test_for_people(cli: Cli, here: Path):
    result = cli.done("build", "net.onnx", *INT8, *DATA)
    assert re.search(r"calibration\W+mse over 12 images", result.out)
    assert re.search(r"in INT8\W+\d+ layers, [\d.]+ % of the multiply-accumulates; \d+ stay FP16", result.out)
    assert re.search(r"graph against FP32\W+SQNR [\d.]+ dB, cosine 0\.\d+", result.out)
    assert (
        result.err.splitlines()[0]
        == "warning: the weights are RANDOM (no checkpoint was loaded): predictions mean nothing"
    )
    assert "calibrating on 12 images from photos by mse" in result.err
    assert "comparing the int8 graph with the FP32 graph on 12 images from photos" in result.err


def test_backend_none_stops_at_the_graph(cli: Cli, here: Path):
    before = snapshot(here)
    result = cli.done("build", "net.onnx", "--precision", "fp16", *GRAPH, "--json")
    assert new_files(before, here) == {"net.fp16.onnx"}
    assert result.document["plan"] is None
    onnx.checker.check_model("net.fp16.onnx", full_check=True)
    cli.done("build", "net.onnx", "--precision", "fp16", *GRAPH, "-o", "literally.onnx")
    assert Path("literally.onnx").is_file()


def test_a_graph_alone_outdates_the_engine_beside_it(cli: Cli, here: Path):
    half = ("build", "net.onnx", "--precision", "fp16")
    assert "earlier" not in cli.done(*half, *GRAPH).err
    cli.done(*half, "--backend", "tensorrt_rtx")
    assert "net.fp16.rtx.plan was built from an earlier net.fp16.onnx: build it again" in cli.done(*half, *GRAPH).err
    Path("net.fp16.rtx.plan.json").write_text("damaged")
    assert "earlier" not in cli.done(*half, *GRAPH).err


def test_a_precise_graph_is_built_as_it_is(cli: Cli, here: Path):
    cli.done("build", "net.onnx", *INT8, *DATA, *GRAPH)
    graph, before = Path("net.int8.onnx").read_bytes(), snapshot(here)
    result = cli.done("build", "net.int8.onnx", *INT8, "--json")
    assert Path("net.int8.onnx").read_bytes() == graph
    assert new_files(before, here) == {"net.int8.rtx.plan", "net.int8.rtx.plan.json"}
    assert result.document["evidence"][0] == "net.int8.onnx: built as it is"


@pytest.mark.parametrize("output", [None, "out", "out/mine.plan"])
def test_where_the_artefacts_go(cli: Cli, here: Path, output: str | None):
    """A graph from elsewhere: into the current folder, a folder that is given, or named after the plan."""
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("net.onnx").rename("elsewhere/net.onnx")
    before = snapshot(here)
    cli.done("build", "elsewhere/net.onnx", "--precision", "fp16", *(("-o", output) if output else ()))
    made = {
        None: {"net.fp16.onnx", "net.fp16.rtx.plan", "net.fp16.rtx.plan.json"},
        "out": {"out/net.fp16.onnx", "out/net.fp16.rtx.plan", "out/net.fp16.rtx.plan.json"},
        "out/mine.plan": {"out/mine.fp16.onnx", "out/mine.plan", "out/mine.plan.json"},
    }[output]
    assert new_files(before, here) == made
    (plan,) = (Path(name) for name in made if name.endswith(".plan"))
    engine = json.loads(plan.with_name(plan.name + ".json").read_text())["engine"]
    assert (plan.parent / engine["onnx_file"]).is_file()


def test_fp32_in_another_folder_names_its_graph_relative_to_the_plan(cli: Cli, here: Path):
    Path("out").mkdir()
    cli.done("build", "net.onnx", "--precision", "fp32", "-o", "out/net.plan")
    assert json.loads(Path("out/net.plan.json").read_text())["engine"]["onnx_file"] == "../net.onnx"


def test_the_builders_log(cli: Cli, here: Path):
    cli.done("build", "net.onnx", "--precision", "fp32", "--log", "build.log")
    assert re.search(r"^\[(INFO|VERBOSE)\] \S", Path("build.log").read_text(), re.MULTILINE)


def test_existing_files_are_replaced_whole(cli: Cli, here: Path):
    for name in ("net.fp16.onnx", "net.fp16.rtx.plan", "net.fp16.rtx.plan.json"):
        Path(name).write_text("an older one")
    before = snapshot(here)
    cli.done("build", "net.onnx", "--precision", "fp16")
    assert new_files(before, here) == set()
    cli.done("inspect", "net.fp16.rtx.plan")
    onnx.checker.check_model("net.fp16.onnx")


def test_arrays_calibrate_as_images_do(cli: Cli, here: Path):
    images = np.random.default_rng(0).standard_normal((9, 3, 64, 64)).astype(np.float32)
    np.savez("arrays.npz", input=images)
    document = cli.done("build", "net.onnx", *INT8, "--calibration-data", "arrays.npz", *GRAPH, "--json").document
    assert document["verdicts"]["graph"]["samples"] == 9
    assert json.loads(Path("net.int8.calib.json").read_text())["images"] == 9


def test_an_unreadable_image_is_skipped_and_said(cli: Cli, here: Path):
    Path("some").mkdir()
    for name in ("000.png", "001.png"):
        (Path("some") / name).write_bytes((Path("photos") / name).read_bytes())
    Path("some/torn.png").write_bytes(b"\x89PNG")
    result = cli.done("build", "net.onnx", *INT8, "--calibration-data", "some", *GRAPH, "--json")
    assert "warning: skipped: some/torn.png" in result.err
    assert json.loads(Path("net.int8.calib.json").read_text())["images"] == 2


def test_a_graph_too_far_off_is_not_written(cli: Cli, here: Path):
    """An overflow that synthetic images meet unprepared; the audit of real images keeps it in FP32."""
    model = onnx.load(foreign(Path("foreign.onnx")))
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "kernel")
    values = onnx.numpy_helper.to_array(kernel) * np.float32(5e4)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, "kernel"))
    onnx.save(model, "foreign.onnx")
    error = cli.refused(1, "build", "foreign.onnx", "--precision", "fp16")
    assert error == (
        "the fp16 graph is too far from the FP32 graph; no graph or engine was written (got scores: NaN or infinity in "
        "the output). Give real images: --calibration-data."
    )
    result = cli.done("build", "foreign.onnx", "--precision", "fp16", *DATA, *GRAPH, "--json")
    assert "conv" in result.document["manifest"]["quantization"]["fp32_nodes"]


def test_a_link_that_leads_nowhere_is_skipped_in_calibration(cli: Cli, here: Path):
    shutil.copytree("photos", "mine")
    Path("mine/dangling.png").symlink_to("nowhere.png")
    result = cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "mine", "--backend", "none")
    assert "warning: skipped: cannot read mine/dangling.png" in result.err
    assert json.loads(Path("net.int8.calib.json").read_text())["images"] == 12


def test_a_graph_that_is_precise_already(cli: Cli, here: Path):
    assert "there is nothing to do" in cli.refused(2, "build", "net.onnx", "--precision", "fp32", "--backend", "none")
    cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "none")
    argv = ("build", "net.int8.onnx", "--precision", "int8", "--calibration-method", "max")
    assert "net.int8.onnx is INT8 already: nothing to calibrate" in cli.refused(2, *argv)
    argv = ("build", "net.onnx", "--precision", "int8", "--calibration-images", "3")
    assert cli.refused(2, *argv).startswith("--calibration-images counts images (got no --calibration-data)")


def test_a_slash_at_the_end_means_a_folder(cli: Cli, here: Path):
    assert "there is no folder new/" in cli.refused(2, "build", "net.onnx", "--precision", "fp32", "-o", "new/")
