"""The acceptance run where there is no GPU: it goes to its end and says what it could not do."""

import argparse
import json

import numpy as np
import pytest

from deploy.engine.flavours import available_flavours


def _outcomes(document):
    return {outcome["step"]: outcome for outcome in document["outcomes"]}


@pytest.fixture
def measured(script, graph, tmp_path):
    """The measuring child on a graph, with options; returns exit code and document."""
    net = graph(32)

    def run(*options):
        done = script("_acceptance_measure.py", net, *options)
        return done.returncode, json.loads(done.stdout)

    return run


def test_without_a_gpu_graphs_are_simulated_and_engines_compiled(script, graph, tmp_path):
    graph(32)
    options = ["--models", "net", "--calibration-images", 8, "--output", tmp_path / "r"]
    done = script("gpu_acceptance.py", "--graphs", tmp_path, *options)
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads((tmp_path / "r/acceptance.json").read_text())
    outcomes = _outcomes(document)
    assert {outcome["status"] for outcome in outcomes.values()} == {"ok"}
    assert document["executed_engines"] == []
    assert "executed on CPU" in outcomes["net fp32 run ONNX Runtime CPU"]["facts"]["execution"]
    assert outcomes["net fp32 run ONNX Runtime CPU"]["facts"]["reference"] is None  # it is the reference itself
    for precision in ("fp16", "int8"):
        twin = outcomes[f"net {precision} run twin"]["facts"]
        assert twin["execution"].startswith("simulated on CPU")
        assert set(twin["reference"]) == {"1", "7", "32", "all"}
        assert twin["reference"]["all"]["sqnr_db"] < 90  # it does round
        assert set(twin["latency_ms"]) == {"1", "32"}
    text = (tmp_path / "r/acceptance.md").read_text()
    assert text == done.stdout.removesuffix("\n")
    assert "**No engine was executed here**" in text
    assert "NVIDIA GPU: none found" in text
    builds = [step for step in outcomes if "build tensorrt" in step]
    usable = [state.name for state in available_flavours() if state.problem is None and state.name == "tensorrt_rtx"]
    assert len(builds) == 3 * len(usable)
    assert text.count("not executed: no GPU here") == len(builds)


def test_a_broken_model_is_reported_and_the_rest_goes_on(script, graph, tmp_path, monkeypatch):
    graph(32)
    monkeypatch.chdir(tmp_path)  # paths are relative to where the user is
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    options = ["--models", "broken", "net", "--precisions", "fp16", "--calibration-images", 4, "--json"]
    done = script("gpu_acceptance.py", "--graphs", ".", *options)
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = _outcomes(json.loads(done.stdout))
    assert outcomes["broken fp16 quantize"]["status"] == "failed"
    assert "is not an ONNX file" in outcomes["broken fp16 quantize"]["reason"]
    assert outcomes["broken fp16 run twin"]["status"] == "skipped"
    assert outcomes["net fp16 run twin"]["status"] == "ok"


def test_the_time_budget_is_kept(script, graph, tmp_path):
    graph(32)
    done = script("gpu_acceptance.py", "--graphs", tmp_path, "--models", "net", "--budget-s", 1)
    assert done.returncode == 3
    assert done.stdout.count("the time budget of 1 s is used up") >= 6
    assert "exit code 3" in done.stdout


def test_a_graph_equals_itself(measured, tmp_path):
    assert measured("--save", tmp_path / "ref.npz")[0] == 0
    code, document = measured("--reference", tmp_path / "absent.npz", "--fallback", tmp_path / "ref.npz")
    assert (code, document["failures"], document["repeatable"]) == (0, [], True)
    assert document["reference"]["all"]["max_abs"] == 0
    assert document["reference"]["all"]["samples"] == 40


def test_other_outputs_fail(measured, tmp_path):
    measured("--save", tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as saved:
        outputs = dict(saved)
    outputs["7"] = outputs["7"] + 0.01 * np.abs(outputs["7"]).max()
    np.savez(tmp_path / "ref.npz", **outputs)
    code, document = measured("--reference", tmp_path / "ref.npz")
    assert code == 1
    assert "relative error" in document["failures"][0]
    assert document["reference"]["32"]["max_abs"] == 0


def test_cuda_that_is_not_there_is_the_machines_lack(measured):
    code, document = measured("--device", "cuda")
    assert code == 3
    assert "CUDA" in document["error"]


@pytest.mark.slow
def test_pytorch_is_the_reference_of_its_own_export(script, tmp_path):
    options = ["--models", "mobilenet_v3_small", "--image-size", 32, "--precisions", "fp32"]
    done = script("gpu_acceptance.py", *options, "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    outcomes = _outcomes(json.loads(done.stdout))
    assert "PyTorch" in outcomes["mobilenet_v3_small fp32 run PyTorch"]["facts"]["execution"]
    graph = outcomes["mobilenet_v3_small fp32 run ONNX Runtime CPU"]["facts"]
    assert 0 < graph["reference"]["all"]["relative"] < 1e-4


@pytest.fixture
def with_a_gpu(benchmark_module, graph, tmp_path, monkeypatch):
    """Every outcome of a run that believes in a GPU and both TensorRTs, on a machine that shows it none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    acceptance, steps = benchmark_module("gpu_acceptance"), benchmark_module("_acceptance_steps")
    graph(32)
    work, photos = tmp_path / "work", tmp_path / "photos"
    work.mkdir()
    photos.mkdir()
    benchmark_module("_measure").images(photos, 4, (48, 48))
    args = argparse.Namespace(graphs=tmp_path, image_size=None, precisions=["int8"])
    job = acceptance._Model("net", args, work, photos, {"NVIDIA GPU", "TensorRT", "TensorRT-RTX"})
    budget = steps.Budget(100)
    return {step.name: steps.execute(step, budget) for step in job.steps()}


def test_on_a_gpu_every_way_to_run_is_tried_and_only_the_machine_is_to_blame(with_a_gpu):
    runs = {name: outcome.status for name, outcome in with_a_gpu.items() if "run" in name}
    ways = {"run TensorRT", "run TensorRT-RTX", "run ONNX Runtime CUDA"}
    assert set(runs) == {f"net int8 {way}" for way in ways} | {
        "net fp32 run ONNX Runtime CPU",
        "net int8 run twin",
    }
    assert "failed" not in {outcome.status for outcome in with_a_gpu.values()}, with_a_gpu
    assert with_a_gpu["net int8 run ONNX Runtime CUDA"].status == "missing"
    plan = with_a_gpu["net int8 run TensorRT-RTX"]
    # The engine is there where TensorRT-RTX is installed, and then cannot run; elsewhere there is none to run.
    assert "no NVIDIA GPU" in plan.reason or plan.status == "skipped"
