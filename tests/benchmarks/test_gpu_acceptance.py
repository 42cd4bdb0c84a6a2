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
    options = ["--models", "net", "--calibration-images", 8, "--soak-s", 2, "--output", tmp_path / "r"]
    done = script("gpu_acceptance.py", "--graphs", tmp_path, *options)
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads((tmp_path / "r/acceptance.json").read_text())
    outcomes = _outcomes(document)
    bench = outcomes.pop("net fp32 bench ONNX Runtime CPU")
    assert bench["status"] == "ok" or bench["reason"] == "bench is not there: python -m deploy has no such verb"
    assert {outcome["status"] for outcome in outcomes.values()} == {"ok"}
    assert document["executed_engines"] == []
    assert "executed on CPU" in outcomes["net fp32 run ONNX Runtime CPU"]["facts"]["execution"]
    assert outcomes["net fp32 run ONNX Runtime CPU"]["facts"]["reference"] is None  # it is the reference itself
    for precision in ("fp16", "int8"):
        twin = outcomes[f"net {precision} run twin"]["facts"]
        assert twin["execution"].startswith("simulated on CPU")
        assert set(twin["reference"]["logits"]) == {"1", "7", "32", "all"}
        assert twin["reference"]["logits"]["all"]["sqnr_db"] < 90  # it does round
        assert set(twin["consistency"]) == {"repeat", "same rows", "alone", "threads"}
        assert set(twin["latency_ms"]) == {"1", "32"}
    soak = outcomes["net int8 soak twin"]["facts"]
    assert soak["requests"] >= 4
    assert soak["wrong"] == 0
    assert soak["peak_mib"]["host"] > 10
    assert soak["grown_mib"]["gpu"] is None  # there is none to watch
    text = (tmp_path / "r/acceptance.md").read_text()
    assert text == done.stdout.removesuffix("\n")
    assert "**No engine was executed here**" in text
    assert "NVIDIA GPU: none found" in text
    assert "trtexec: not on PATH" in text
    assert "## Under load" in text
    builds = [step for step in outcomes if "build tensorrt" in step]
    usable = [state.name for state in available_flavours() if state.problem is None and state.name == "tensorrt_rtx"]
    assert len(builds) == 3 * len(usable)
    assert text.count("not executed: no GPU here") == len(builds)


def test_a_broken_model_is_reported_and_the_rest_goes_on(script, graph, tmp_path, monkeypatch):
    graph(32)
    monkeypatch.chdir(tmp_path)  # paths are relative to where the user is
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    options = ["--models", "broken", "net", "--precisions", "fp16", "--calibration-images", 4, "--soak-s", 1, "--json"]
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
    assert (code, document["failures"]) == (0, [])
    assert document["reference"]["logits"]["all"]["max_abs"] == 0
    assert document["reference"]["logits"]["all"]["samples"] == 40
    assert document["consistency"]["repeat"]["same_bits"]


def test_other_outputs_fail(measured, tmp_path):
    measured("--save", tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as saved:
        outputs = dict(saved)
    outputs["7/logits"] = outputs["7/logits"] + 0.01 * np.abs(outputs["7/logits"]).max()
    np.savez(tmp_path / "ref.npz", **outputs)
    code, document = measured("--reference", tmp_path / "ref.npz")
    assert code == 1
    assert document["failures"][0].startswith("logits: relative error")
    assert document["reference"]["logits"]["32"]["max_abs"] == 0


def test_cuda_that_is_not_there_is_the_machines_lack(measured):
    code, document = measured("--device", "cuda")
    assert code == 3
    assert "CUDA" in document["error"]


@pytest.mark.slow
def test_pytorch_is_the_reference_of_its_own_export(script, tmp_path):
    options = ["--models", "mobilenet_v3_small", "--image-size", 32, "--precisions", "fp32", "--soak-s", 1]
    done = script("gpu_acceptance.py", *options, "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    outcomes = _outcomes(json.loads(done.stdout))
    assert "PyTorch" in outcomes["mobilenet_v3_small fp32 run PyTorch"]["facts"]["execution"]
    graph = outcomes["mobilenet_v3_small fp32 run ONNX Runtime CPU"]["facts"]
    assert 0 < graph["reference"]["logits"]["all"]["relative"] < 1e-4
    eager = outcomes["mobilenet_v3_small fp32 bench PyTorch eager"]["facts"]
    assert set(eager["batches"]) == {"1", "8", "32"}
    assert all(figures["images_per_second"] > 0 for figures in eager["batches"].values())


@pytest.fixture
def with_a_gpu(benchmark_module, graph, tmp_path, monkeypatch):
    """Every outcome of a run that believes in a GPU and both TensorRTs, on a machine that shows it none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    plan, steps = benchmark_module("_acceptance_plan"), benchmark_module("_acceptance_steps")
    graph(32)
    work, photos = tmp_path / "work", tmp_path / "photos"
    work.mkdir()
    photos.mkdir()
    benchmark_module("_measure").images(photos, 4, (48, 48))
    args = argparse.Namespace(graphs=tmp_path, image_size=None, precisions=["int8"], soak_s=1.0, budget_s=100.0)
    job = plan.Subject("net", args, work, photos, {"NVIDIA GPU", "TensorRT", "TensorRT-RTX"})
    budget = steps.Budget(100)
    todo = [*job.parity(), *job.bench(), *job.soak(budget.left), *job.bench_more()]
    return {step.name: steps.execute(step, budget) for step in todo}


def test_on_a_gpu_every_way_to_run_is_tried_and_only_the_machine_is_to_blame(with_a_gpu):
    runs = {name for name in with_a_gpu if " run " in name}
    ways = ("run twin", "run TensorRT", "run TensorRT-RTX", "run ONNX Runtime CUDA")
    assert runs == {"net fp32 run ONNX Runtime CPU", *(f"net int8 {way}" for way in ways)}
    timed = {name for name in with_a_gpu if " bench " in name or " soak " in name}
    assert timed == {
        "net int8 bench TensorRT",
        "net int8 bench TensorRT-RTX",
        "net fp32 bench ONNX Runtime CUDA",
        "net int8 soak TensorRT",
        "net int8 soak TensorRT-RTX",
    }
    assert "failed" not in {outcome.status for outcome in with_a_gpu.values()}, with_a_gpu
    assert with_a_gpu["net int8 run ONNX Runtime CUDA"].status == "missing"
    # The engine is there where TensorRT-RTX is installed, and then cannot run; elsewhere there is none to run.
    for way in ("run", "soak"):
        plan = with_a_gpu[f"net int8 {way} TensorRT-RTX"]
        assert "no NVIDIA GPU" in plan.reason or plan.status == "skipped"


def test_the_most_telling_steps_come_first_and_gpu_tests_only_with_a_gpu(benchmark_module, tmp_path):
    acceptance, steps = benchmark_module("gpu_acceptance"), benchmark_module("_acceptance_steps")
    plan = benchmark_module("_acceptance_plan")
    args = argparse.Namespace(graphs=None, image_size=None, precisions=["fp32", "int8"], soak_s=120.0, budget_s=400.0)
    for gpu in (True, False):
        here = {"NVIDIA GPU", "TensorRT"} if gpu else set()
        subjects = [plan.Subject(name, args, tmp_path, tmp_path, here) for name in ("a", "b")]
        names = [step.name for step in acceptance.steps(subjects, gpu, steps.Budget(400))]
        order = ["a fp32 export", "a int8 run twin", "a fp32 bench PyTorch eager", "b fp32 export", "b int8 run twin"]
        assert sorted(order, key=names.index) == order
        assert ("gpu tests" in names) == gpu
        assert names[-1].startswith("b ")
        soak = "a int8 soak TensorRT" if gpu else "a int8 soak twin"
        bench = next(name for name in names if "bench PyTorch eager" in name)
        compiled = next(name for name in names if "torch.compile" in name)
        assert names.index(bench) < names.index(soak) < names.index(compiled) < names.index("b fp32 export")


def test_the_soak_takes_a_share_of_the_time_and_no_more_than_is_left(benchmark_module, tmp_path):
    plan = benchmark_module("_acceptance_plan")
    args = argparse.Namespace(graphs=None, image_size=None, precisions=["int8"], soak_s=120.0, budget_s=400.0)
    subject = plan.Subject("a", args, tmp_path, tmp_path, {"NVIDIA GPU", "TensorRT", "TensorRT-RTX"})
    for left, each in ((380, "50"), (42, "15"), (3, "0.5")):
        for step in subject.soak(left):
            assert step.command[step.command.index("--seconds") + 1] == each
