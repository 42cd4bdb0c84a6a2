"""A detector, with and without NMS in its graph, through build, verify, eval and inspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import SMALL, Cli, write_images
from detector import write_detector, write_with_nms

from deploy.errors import MachineError
from deploy.graph import files
from deploy.graph.nms import detach_nms
from deploy.hardware import GpuInfo
from deploy.runtime.onnxrt import OnnxRunner
from deploy.specs import NmsSettings

SETTINGS = NmsSettings(0.05, 0.45, 100)
TO_GRAPH = ("--backend", "none", "--calibration-data", "photos")


@pytest.fixture
def there(empty: Path) -> Path:
    """The current folder: ``tiny.onnx``, ``ending.onnx`` (the same with NMS) and ``photos/``."""
    write_detector(Path("tiny.onnx"))
    write_with_nms(Path("ending.onnx"), SETTINGS)
    write_images(Path("photos"), 24, (72, 80))
    return empty


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precise_graphs_are_those_without_nms_and_nms_again(cli: Cli, there: Path, precision: str):
    plain = cli.done("build", "tiny.onnx", "--precision", precision, *TO_GRAPH, "--json").document
    ending = cli.done("build", "ending.onnx", "--precision", precision, *TO_GRAPH, "--json").document
    assert ending["verdicts"] == plain["verdicts"], "NMS is in no figure"
    core, settings = detach_nms(files.load(Path(f"ending.{precision}.onnx")))
    assert settings == SETTINGS
    other = files.load(Path(f"tiny.{precision}.onnx"))
    core.metadata_props.clear(), other.metadata_props.clear()
    assert files.to_bytes(core) == files.to_bytes(other)
    manifest = ending["manifest"]
    assert manifest["nms"] == {"score_threshold": 0.05, "iou_threshold": 0.45, "max_detections": 100}
    assert manifest["outputs"] == [{"name": "detections", "dtype": "float32", "shape": ["batch", 100, 6]}]
    assert plain["manifest"]["nms"] is None


def test_nms_inside_answers_as_nms_outside(cli: Cli, there: Path):
    flags = ["--score-threshold", 0.05, "--max-detections", 100]
    outside = cli.done("infer", "--engine", "tiny.onnx", "photos", *flags, "--json").document["images"]
    inside = cli.done("infer", "--engine", "ending.onnx", "photos", "--json").document["images"]
    assert inside == outside
    assert sum(len(entry["detections"]) for entry in inside) > 100
    fewer = cli.done("infer", "--engine", "ending.onnx", "photos", "--json", "--score-threshold", 0.4).document
    kept = [[d for d in entry["detections"] if d["score"] > 0.4] for entry in inside]
    assert [entry["detections"] for entry in fewer["images"]] == kept


def test_an_fp16_graph_with_nms_is_simulated(cli: Cli, there: Path):
    cli.done("build", "ending.onnx", "--precision", "fp16", *TO_GRAPH)
    document = cli.done("infer", "--engine", "ending.fp16.onnx", "photos/001.png", "--json").document
    assert document["execution"] == "simulated on CPU by the twin of the FP16 graph"


def test_verify_compares_the_networks_before_nms(cli: Cli, there: Path):
    cli.done("build", "ending.onnx", "--precision", "int8", *TO_GRAPH)
    report = cli.done("verify", "tiny.onnx", "ending.onnx", "ending.int8.onnx", "--data", "photos", "--json").document
    same, int8 = report["verdicts"]
    assert {name: figures["max_abs"] for name, figures in same["outputs"].items()} == {"boxes": 0, "scores": 0}
    assert int8["execution"] == "simulated on CPU by the twin of the INT8 graph, without its NMS"
    shown = cli.done("verify", "ending.onnx", "tiny.onnx").out
    assert "tiny.onnx boxes" in shown
    assert "tiny.onnx scores" in shown


def test_wrong_scores_do_not_hide_behind_right_boxes(cli: Cli, there: Path):
    model = onnx.load("ending.onnx")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head0.bias")
    moved = onnx.numpy_helper.to_array(bias).copy()
    moved[4::10] += 1  # objectness
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    onnx.save(model, "wrong.onnx")
    result = cli("verify", "ending.onnx", "wrong.onnx")
    assert result.code == 1
    assert "wrong.onnx failed: scores: relative error" in result.out
    assert "failed: boxes" not in result.out


def test_tensorrt_rtx_is_refused_before_the_work(cli: Cli, there: Path):
    pytest.importorskip("tensorrt_rtx")
    error = cli.refused(2, "build", "ending.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx")
    assert "has no non-maximum suppression, and ending.onnx ends in it. Build with --backend tensorrt or none" in error
    assert cli.done("build", "tiny.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx").code == 0


def test_accuracy_is_a_classifiers(cli: Cli, there: Path):
    error = cli.refused(2, "eval", "tiny.onnx", "--data", "photos")
    assert error.startswith(
        "tiny.onnx is a detector: top-1 accuracy is that of a classifier, and there is no mAP here."
    )


def test_inspect_tells_of_it(cli: Cli, there: Path):
    shown = cli.done("inspect", "ending.onnx").out
    assert "tiny_detector (detection)" in shown
    assert "score above 0.05, IoU up to 0.45, at most 100" in shown


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--nms"], "NMS is for detectors, and mobilenet_v3_small is none (got logits float32[batch, 10])."),
        (["--score-threshold", 0.4], "--score-threshold is a setting of --nms. Give --nms too, or this to infer."),
        (["--nms", "--iou-threshold", 2], "the iou threshold is a share (got 2.0; expected 0 to 1)"),
    ],
)
def test_what_export_refuses(cli: Cli, empty: Path, argv: list[object], error: str):
    assert error in cli.refused(2, "export", *SMALL, *argv)


@pytest.fixture
def engine(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT on a GPU, played by TensorRT-RTX, which compiles the network, and ONNX Runtime, which runs run.onnx."""
    pytest.importorskip("tensorrt_rtx")
    from dataclasses import replace

    from deploy.engine.flavours import load_flavour
    from deploy.workflows import build

    def open_plan(path: Path, **options: object) -> OnnxRunner:
        if not path.is_file():
            raise MachineError(f"no plan at {path}")
        runner = OnnxRunner(Path("run.onnx"), device="cpu")
        runner.execution = "executed on NVIDIA L4"
        return runner

    def compile_without_nms(onnx: bytes, **options):
        Path("built.onnx").write_bytes(onnx)
        return build_engine(files.to_bytes(detach_nms(files.load(Path("built.onnx")))[0]), **options)

    build_engine = build.build_engine
    flavour = load_flavour("tensorrt_rtx")
    monkeypatch.setattr(build, "choose_flavour", lambda name: replace(flavour, can=replace(flavour.can, nms=True)))
    monkeypatch.setattr(build, "build_engine", compile_without_nms)
    monkeypatch.setattr(build, "devices", lambda: [GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")])
    monkeypatch.setattr("deploy.runtime.trt.open_plan", open_plan)


BUILD = ("build", "ending.onnx", "--precision", "fp16", "--calibration-data", "photos")


def test_an_engine_with_nms_is_judged_by_its_detections(cli: Cli, there: Path, engine: None):
    cli.done(*BUILD, "--backend", "none", "-o", "run.onnx")
    document = cli.done(*BUILD, "--json").document
    assert document["verdicts"].keys() == {"graph"}
    assert "matched 9" in document["evidence"][-1] or "matched 100.0 % at IoU 0.5" in document["evidence"][-1]
    figures = document["manifest"]["parity"][-1]
    assert (figures["how"], figures["images"]) == ("executed on NVIDIA L4", 24)
    assert figures["matched"]["0.50"] > 0.9
    assert document["manifest"]["outputs"][0]["name"] == "detections"
    assert "NonMaxSuppression" in {node.op_type for node in onnx.load("built.onnx").graph.node}
    assert "detections matched" in cli.done("inspect", document["plan"]).out


def test_an_engine_that_detects_something_else_is_not_written(cli: Cli, there: Path, engine: None):
    cli.done(*BUILD, "--backend", "none", "-o", "run.onnx")
    model = onnx.load("run.onnx")
    numbers = next(tensor for tensor in model.graph.initializer if tensor.name == "nms/numbers")
    numbers.CopyFrom(onnx.numpy_helper.from_array(np.arange(5, dtype=np.float32)[::-1].copy(), numbers.name))
    onnx.save(model, "run.onnx")
    before = set(Path().iterdir())
    result = cli(*BUILD)
    assert result.code == 1
    assert "the engine is too far from the FP32 graph; no graph or engine was written (got " in result.error
    assert "of the detections matched, under 95 %" in result.error
    assert set(Path().iterdir()) - before == {Path("built.onnx")}


def test_verify_matches_an_engines_detections(cli: Cli, there: Path, engine: None):
    write_with_nms(Path("run.onnx"), SETTINGS)
    Path("net.plan").write_bytes(b"ftrt")
    report = cli.done("verify", "tiny.onnx", "ending.onnx", "net.plan", "--json").document
    graph, plan = report["verdicts"]
    assert (graph["name"], plan["name"]) == ("ending.onnx", "net.plan")
    assert plan["detections"]["matched"] == {"0.50": 1.0, "0.75": 1.0, "0.90": 1.0}
    shown = cli.done("verify", "tiny.onnx", "net.plan").out
    assert "net.plan passed: " in shown
    error = cli.refused(2, "verify", "net.plan", "net.plan")
    assert "is compared with a detector's boxes and scores" in error
