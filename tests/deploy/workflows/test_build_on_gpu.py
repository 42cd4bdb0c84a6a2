"""What a build does with its engine where there is a GPU, played by ONNX Runtime in place of the engine."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from commands import Cli, foreign, snapshot, write_images

from deploy.errors import MachineError
from deploy.hardware import GpuInfo
from deploy.runtime.onnxrt import OnnxRunner

GPU = GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A GPU whose engines answer as ``engine.onnx`` does; the plans that were opened."""
    monkeypatch.chdir(tmp_path)
    foreign(Path("net.onnx"))
    write_images(Path("photos"), 5)
    opened: list[Path] = []

    def open_plan(path: Path, **options: object) -> OnnxRunner:
        assert path.stat().st_size > 1000
        opened.append(path)
        runner = OnnxRunner(Path("engine.onnx"), device="cpu")
        runner.execution = "executed on NVIDIA L4"
        return runner

    monkeypatch.setattr("deploy.workflows.build.devices", lambda: [GPU])
    monkeypatch.setattr("deploy.runtime.trt.open_plan", open_plan)
    return opened


BUILD = ("build", "net.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx")


def test_the_engine_is_run_and_its_figures_are_in_the_manifest(cli: Cli, engine: list[Path]):
    foreign(Path("engine.onnx"))
    document = cli.done(*BUILD, "--json").document
    assert len(engine) == 1
    assert document["verdicts"].keys() == {"graph", "plan"}
    assert document["evidence"][-1] == "net.fp16.rtx.plan: executed on NVIDIA L4, on synthetic images"
    assert [figures["how"] for figures in document["manifest"]["parity"]] == ["simulated", "executed on NVIDIA L4"]
    assert not engine[0].exists(), "it was judged before it took its place"
    assert Path("net.fp16.rtx.plan").is_file()


def test_an_engine_that_answers_wrongly_is_not_written(cli: Cli, engine: list[Path]):
    """One of other weights: the plan that was there before stays."""
    model = onnx.load(foreign(Path("engine.onnx")))
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head)[:, ::-1].copy(), "head"))
    onnx.save(model, "engine.onnx")
    Path("net.fp16.rtx.plan").write_text("the plan before")
    error = cli.refused(1, *BUILD)
    assert error.startswith("the engine is too far from the FP32 graph; no graph or engine was written (got scores: ")
    assert Path("net.fp16.rtx.plan").read_text() == "the plan before"


def test_int8_without_images_is_compiled_and_not_judged(cli: Cli, engine: list[Path]):
    foreign(Path("engine.onnx"))
    int8 = [*BUILD[:2], "--precision", "int8", "--backend", "tensorrt_rtx"]
    cli.done(*int8, "--calibration-data", "photos")
    engine.clear()
    document = cli.done(*int8, "--json").document
    assert engine == []
    assert document["evidence"][-1].endswith("not executed: no --calibration-data to compare on")
    assert set(snapshot(Path())) >= {"net.int8.rtx.plan", "net.int8.rtx.plan.json"}


def test_an_engine_that_this_gpu_cannot_run_is_written_and_said(cli: Cli, engine: list[Path], monkeypatch):
    """TensorRT-RTX builds for GPUs other than the one that is here."""

    def refused(path: Path, **options: object) -> OnnxRunner:
        raise MachineError("TensorRT-RTX 1.7 cannot load this plan", got="compute capability 9.0 is not supported")

    monkeypatch.setattr("deploy.runtime.trt.open_plan", refused)
    done = cli.done(*BUILD, "--json")
    assert done.document["evidence"][-1].endswith("cannot load this plan (got compute capability 9.0 is not supported)")
    assert "warning: the engine does not run here: TensorRT-RTX 1.7 cannot load this plan" in done.err
    assert Path("net.fp16.rtx.plan").is_file()
