"""``bench`` as users type it, for tenths of a second."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from commands import Cli, foreign
from tensorrt_api.simulator import plan_header
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.manifest import EngineInfo, Manifest
from deploy.runtime.base import Runner
from deploy.runtime.timing import InferenceTime
from deploy.specs import Precision, ShapeProfile, TensorSpec
from deploy.workflows import bench as workflow
from deploy.workflows import bench_subjects

SHORT = ("--duration-s", "0.1", "--warm-up-ms", "5", "--threads", "1")
FIGURES = {"min", "max", "mean", "median", "p90", "p99", "cv_percent", "iqr_percent"}
PARTS = ("latency_ms", "enqueue_time_ms", "h2d_latency_ms", "gpu_compute_time_ms", "d2h_latency_ms")


def test_one_file(cli: Cli, here: Path):
    shown = cli.done("bench", "net.onnx", *SHORT)
    assert "images/s" in shown.out
    assert "the first is 1" not in shown.out
    assert "net.onnx: executed on CPU (ONNX Runtime" in shown.out
    assert "Host Latency is all it can tell" in shown.out
    assert "GPU" not in shown.out.replace("executed on", "")
    assert "MB of host memory" in shown.out


def test_the_document(cli: Cli, here: Path):
    document = cli.done("bench", "net.onnx", "net.onnx", "--batch", "1,4", *SHORT, "--json").document
    assert set(document) == {"machine", "settings", "host_memory_peak_mb", "results", "warnings"}
    assert document["settings"] == {
        **{"duration_s": 0.1, "warm_up_ms": 5.0, "iterations": 10, "concurrency": 1},
        **{"device": "auto", "threads": 1, "inputs": "made up"},
    }
    assert {"processor", "load", "gpus", "python", "onnxruntime"} <= set(document["machine"])
    assert document["host_memory_peak_mb"] > 20
    assert [(row["file"], row["batch"]) for row in document["results"]] == [("net.onnx", b) for b in (1, 1, 4, 4)]
    for row in document["results"]:
        assert row["queries"] >= 10
        assert set(row["host_latency_ms"]) == FIGURES
        assert 0 < row["host_latency_ms"]["min"] <= row["host_latency_ms"]["median"] <= row["host_latency_ms"]["max"]
        assert row["throughput_qps"] == pytest.approx(row["queries"] / row["total_host_walltime_s"])
        assert row["images_per_second"] == pytest.approx(row["throughput_qps"] * row["batch"])
        assert [row[part] for part in PARTS] == [None] * 5
        assert (row["power_w"], row["energy_per_image_j"], row["clock_mhz"], row["gpu_memory_mb"]) == (None,) * 4
        assert (row["precision"], row["backend"], row["timed_by"]) == ("fp32", "onnxrt", None)
        assert row["host_latency_curve"][0][0] == 0
        assert row["host_latency_curve"][-1] == [100, row["host_latency_ms"]["max"]]
    ratios = [row["ratio_to_first"] for row in document["results"]]
    assert ratios[0] is ratios[2] is None
    assert set(ratios[1]) == {"median", "low", "high"}


def test_a_larger_network_takes_longer(cli: Cli, empty: Path):
    foreign(empty / "small.onnx", ("N", 3, 16, 16))
    foreign(empty / "large.onnx", ("N", 3, 128, 128))
    shown = cli.done("bench", "small.onnx", "large.onnx", *SHORT, "--json").document
    assert shown["results"][1]["ratio_to_first"]["median"] > 2
    assert "the first is 1" in cli.done("bench", "small.onnx", "large.onnx", *SHORT).out


def test_real_inputs_and_clients(cli: Cli, here: Path):
    argv = ("net.onnx", "--data", "photos", "--batch", "4", "--concurrency", "2", *SHORT, "--json")
    document = cli.done("bench", *argv).document
    assert document["settings"]["inputs"] == "photos"
    assert document["settings"]["concurrency"] == 2
    np.savez("rows.npz", input=np.zeros((3, 3, 64, 64), np.float32))
    cli.done("bench", "net.onnx", "--data", "rows.npz", "--batch", "3", *SHORT)
    error = cli.refused(2, "bench", "net.onnx", "--data", "rows.npz", "--batch", "4", *SHORT)
    assert error == "rows.npz does not fill a batch (got 3 images; expected at least 4)"


def test_the_batch_of_a_fixed_graph_is_its_default(cli: Cli, empty: Path):
    foreign(empty / "two.onnx", (2, 3, 32, 32))
    assert cli.done("bench", "two.onnx", *SHORT, "--json").document["results"][0]["batch"] == 2
    error = cli.refused(2, "bench", "two.onnx", "--batch", "1,2", *SHORT)
    assert error == "two.onnx takes one batch size alone (got 1; expected 2)"
    foreign(empty / "three.onnx", (3, 3, 32, 32))
    error = cli.refused(2, "bench", "two.onnx", "three.onnx", *SHORT)
    assert error.startswith("the files have different fixed batch sizes")
    foreign(empty / "any.onnx")
    shown = cli.done("bench", "any.onnx", "two.onnx", *SHORT, "--json").document
    assert [row["batch"] for row in shown["results"]] == [2, 2]


def test_plots(cli: Cli, here: Path):
    argv = ("net.onnx", "net.onnx", "--batch", "1,2", *SHORT)
    shown = cli.done("bench", *argv, "--plot", "times.svg", "-o", "times.json")
    assert "wrote times.json\nwrote times.svg\n" in shown.err
    document = json.loads(Path("times.json").read_text())
    svg = ElementTree.fromstring(Path("times.svg").read_text())
    headings = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "heading"]
    assert headings == ["net.onnx", "Host Latency at batch 1", "Host Latency at batch 2", "Throughput by batch"]
    tips = [tip.text for tip in svg.iter("{http://www.w3.org/2000/svg}title")]
    for row in document["results"]:
        assert f"net.onnx: p50 {row['host_latency_ms']['median']:.3f} ms" in tips
        assert f"net.onnx: {row['images_per_second']:.1f} images/s" in tips
    cli.done("bench", *argv, "--plot", "times.html")
    html = Path("times.html").read_text()
    assert html.startswith("<!doctype html>")
    inside = html.partition('<script type="application/json" id="document">')[2].partition("</script>")[0]
    assert len(json.loads(inside)["results"]) == 4


def test_names_are_strangers_in_a_plot(cli: Cli, empty: Path):
    name = "<script>&.onnx"
    foreign(empty / name)
    for plot in ("p.svg", "p.html"):
        cli.done("bench", name, *SHORT, "--plot", plot)
        assert "<script>&" not in Path(plot).read_text()
    ElementTree.fromstring(Path("p.svg").read_text())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["gone.onnx"], "no such file: gone.onnx"),
        (["net.onnx", "gone.onnx"], "no such file: gone.onnx"),
        (["photos"], "photos is a folder"),
        (["net.pt"], "net.pt is neither a graph nor an engine"),
        (["net.onnx", "--batch", "0"], "argument --batch: got 0, expected numbers of images: 8, or 1,8,32"),
        (["net.onnx", "--batch", "1,x"], "argument --batch: got 1,x, expected numbers"),
        (["net.onnx", "--duration-s", "0"], "--duration-s is a time (got 0.0; expected more than 0 seconds)"),
        (["net.onnx", "--duration-s", "nan"], "--duration-s is a time"),
        (["net.onnx", "--warm-up-ms", "-1"], "--warm-up-ms is a time"),
        (["net.onnx", "--concurrency", "0"], "--concurrency is a count (got 0; expected 1 or more)"),
        (["net.onnx", "--iterations", "0"], "--iterations is a count"),
        (["net.onnx", "--threads", "0"], "--threads is a count"),
        (["net.onnx", "--plot", "times.png"], "cannot draw times.png (got .png; expected .svg or .html)"),
        (["net.onnx", "--plot", "gone/times.svg"], "cannot write gone/times.svg"),
        (["net.onnx", "-o", "net.onnx"], "net.onnx is measured: it will not be overwritten"),
    ],
)
def test_refused(cli: Cli, here: Path, argv: list[str], said: str):
    (here / "net.pt").write_bytes(b"x")
    assert cli.refused(2, "bench", *argv).startswith(said)


def test_a_graph_without_a_batch_axis(cli: Cli, empty: Path):
    import onnx
    from commands import save
    from onnx import helper

    vector = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [vector], [result])
    save(empty / "vector.onnx", graph)
    cli.done("bench", "vector.onnx", *SHORT)
    error = cli.refused(2, "bench", "vector.onnx", "--batch", "8")
    assert error == "vector.onnx has no batch axis (got --batch 8; expected --batch 1)"


def test_inputs_of_unknown_size_have_to_be_given(cli: Cli, empty: Path):
    foreign(empty / "any.onnx", ("N", 3, "H", "W"))
    assert cli.refused(2, "bench", "any.onnx").endswith("Give real ones with --data.")
    np.savez("images.npz", image=np.zeros((2, 3, 32, 32), np.float32))
    cli.done("bench", "any.onnx", "--data", "images.npz", *SHORT)


class Measured(Exception):
    """Something was run that should not have been."""


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch):
    def measure(*_: object) -> None:
        raise Measured

    monkeypatch.setattr(workflow, "measure", measure)


def test_an_engine_without_a_gpu_stops_all_before_anything_is_measured(
    cli: Cli, here: Path, unmeasured: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hardware, "devices", list)
    api = next(api for api in APIS if api.flavour == "tensorrt_rtx")
    Path("net.rtx.plan").write_bytes(plan_header(api, b"engine") + b"engine")
    error = cli.refused(3, "bench", "net.onnx", "net.rtx.plan", *SHORT)
    assert "no NVIDIA GPU" in error
    assert "python build_engine.py" in error or "--engine net.onnx" in error


def test_a_simulation_is_timed_only_where_the_cpu_was_asked_for(cli: Cli, here: Path):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    error = cli.refused(3, "bench", "net.onnx", "net.fp16.onnx", *SHORT)
    assert error == (
        "net.fp16.onnx would be simulated on CPU by the twin of the FP16 graph, whose time says nothing of the real "
        "one's (got no GPU). Measure on a machine with a GPU, or the simulation itself with --device cpu."
    )
    shown = cli.done("bench", "net.fp16.onnx", *SHORT, "--device", "cpu")
    assert (
        "warning: net.fp16.onnx is simulated on CPU by the twin of the FP16 graph: its time says nothing" in shown.err
    )
    assert "net.fp16.onnx: simulated on CPU" in shown.out


class Engine(Runner):
    """An engine for batches 2 to 8 on a GPU, as the verb sees it."""

    backend, execution, timed_by = "tensorrt", "executed on a GPU", "CUDA events"
    inputs = (TensorSpec("input", "float32", ("batch", 3, 8, 8)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 10)),)
    manifest = Manifest(
        "net", Precision.INT8, inputs, outputs, engine=EngineInfo("tensorrt", "11.4", ShapeProfile(2, 4, 8), "", "", "")
    )

    def infer(self, feeds):
        return {"logits": np.zeros((len(feeds["input"]), 10), np.float32)}

    def infer_timed(self, feeds):
        return self.infer(feeds), InferenceTime(h2d_ms=0.25, compute_ms=1.5, d2h_ms=0.125, enqueue_ms=0.0625)

    def close(self): ...


class KnowingEngine(Engine):
    """Knows its memory."""

    def device_memory(self):
        return 48_000_000


class Counters:
    """NVML with a GPU at 100 W."""

    def memory_used(self):
        return 1_000_000

    def energy(self):
        return 100 * time.perf_counter()

    def power(self):
        return 100.0

    def clock(self):
        return 1500


@pytest.fixture
def gpu(empty: Path, monkeypatch: pytest.MonkeyPatch):
    Path("net.plan").write_bytes(b"plan")
    monkeypatch.setattr(bench_subjects, "open_runner", lambda path, **options: KnowingEngine())
    monkeypatch.setattr(workflow, "open_counters", Counters)


def test_an_engine_tells_its_parts(cli: Cli, gpu: None):
    shown = cli.done("bench", "net.plan", "--batch", "2,8", *SHORT)
    for name, milliseconds in (
        *(("Latency", "1.875"), ("Enqueue Time", "0.062"), ("H2D Latency", "0.250")),
        *(("GPU Compute Time", "1.500"), ("D2H Latency", "0.125")),
    ):
        (row, _) = [line for line in shown.out.splitlines() if f"  {name} " in line and "net.plan" in line]
        assert row.split()[-6:] == [milliseconds] * 6
    assert "48 (the runner)" in shown.out
    assert "net.plan: executed on a GPU; the parts by CUDA events" in shown.out


def test_the_document_of_an_engine(cli: Cli, gpu: None):
    (row,) = cli.done("bench", "net.plan", *SHORT, "--duration-s", "1.5", "--json").document["results"]
    assert row["batch"] == 2  # the smallest that it takes
    assert all(set(row[part]) == FIGURES for part in PARTS)
    assert row["gpu_compute_time_ms"]["p99"] == 1.5
    assert row["power_w"] == pytest.approx(100, rel=0.1)
    assert row["energy_per_image_j"] == pytest.approx(row["power_w"] / row["images_per_second"])
    assert (row["gpu_memory_mb"], row["gpu_memory_from"]) == (48, "the runner")
    assert (row["precision"], row["timed_by"]) == ("int8", "CUDA events")


def test_less_than_a_second_tells_no_power(cli: Cli, gpu: None):
    (row,) = cli.done("bench", "net.plan", *SHORT, "--json").document["results"]
    assert (row["power_w"], row["energy_per_image_j"]) == (None, None)


def test_a_batch_outside_the_profile(cli: Cli, gpu: None, unmeasured: None):
    error = cli.refused(2, "bench", "net.plan", "--batch", "4,16")
    assert error.startswith("net.plan was not built for this batch (got 16; expected 2 to 8). Build it again")


def test_memory_by_nvml_where_the_runner_does_not_know(cli: Cli, gpu: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_subjects, "open_runner", lambda path, **options: Engine())
    used = iter(range(0, 1_000_000_000, 3_000_000))
    monkeypatch.setattr(Counters, "memory_used", lambda self: next(used))
    (row,) = cli.done("bench", "net.plan", *SHORT, "--json").document["results"]
    assert (row["gpu_memory_mb"], row["gpu_memory_from"]) == (6, "NVML")  # opening it, and its first query
