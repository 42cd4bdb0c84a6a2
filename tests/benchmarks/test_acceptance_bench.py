"""NVIDIA's summaries are read, ours is held against them, and what is not there is said."""

import json
import types

import pytest

from deploy.errors import DeployError, MachineError
from deploy.specs import TensorSpec

# As sampleReporting.cpp and sampleOptions.cpp print them (10.13 and 11.1).
SUMMARY_10 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101300] # trtexec --loadEngine=net.plan --useCudaGraph
[07/30/2026-15:30:40] [I] Average on 10 runs - GPU latency: 0.161392 ms - Host latency: 0.2 ms (enqueue 0.00412598 ms)
[07/30/2026-15:30:43] [I]
[07/30/2026-15:30:43] [I] === Performance summary ===
[07/30/2026-15:30:43] [I] Throughput: 6130.61 qps
[07/30/2026-15:30:43] [I] Latency: min = 0.15918 ms, max = 0.215088 ms, mean = 0.161813 ms, median = 0.161797 ms, \
percentile(90%) = 0.162842 ms, percentile(95%) = 0.163818 ms, percentile(99%) = 0.166748 ms
[07/30/2026-15:30:43] [I] Enqueue Time: min = 0.00256348 ms, max = 0.0349121 ms, mean = 0.0033 ms, median = 0.003 ms, \
percentile(90%) = 0.00354004 ms, percentile(95%) = 0.00378418 ms, percentile(99%) = 0.00982666 ms
[07/30/2026-15:30:43] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms
[07/30/2026-15:30:43] [I] GPU Compute Time: min = 0.15918 ms, max = 0.215088 ms, mean = 0.161813 ms, \
median = 0.161791 ms, percentile(90%) = 0.162842 ms, percentile(95%) = 0.163818 ms, percentile(99%) = 0.166748 ms
[07/30/2026-15:30:43] [I] D2H Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms
[07/30/2026-15:30:43] [I] Total Host Walltime: 3.00035 s
[07/30/2026-15:30:43] [I] Total GPU Compute Time: 2.97639 s
[07/30/2026-15:30:43] [W] * GPU compute time is unstable, with coefficient of variance = 2.98486%.
[07/30/2026-15:30:43] [W]   If not already in use, locking GPU clock frequency or adding --useSpinWait may improve the \
stability.
[07/30/2026-15:30:43] [I] Explanations of the performance metrics are printed in the verbose logs.
[07/30/2026-15:30:43] [V] GPU Compute Time: the GPU latency to execute the kernels for a query.
[07/30/2026-15:30:43] [V] Total GPU Compute Time: the summation of the GPU Compute Time of all the queries. If this is
"""
SUMMARY_11 = """\
[06/24/2026-09:12:01] [W] --useCudaGraph is deprecated. CUDA graph is now enabled by default. Use --noCudaGraph to \
disable CUDA graph.
[06/24/2026-09:12:05] [I] === Performance summary ===
[06/24/2026-09:12:05] [I] Throughput: 1.0214e+04 qps
[06/24/2026-09:12:05] [I] Latency: min = 0.095 ms, max = 0.11 ms, mean = 0.0971 ms, median = 0.097 ms
[06/24/2026-09:12:05] [I] GPU Compute Time: min = 0.095 ms, max = 0.11 ms, mean = 0.0971 ms, median = 9.68e-02 ms
[06/24/2026-09:12:05] [I] Total GPU Compute Time: 2.9 s
"""
USAGE_10 = """\
  --shapes=spec               Set input shapes for dynamic shapes inference inputs.
  --noDataTransfers           Disable DMA transfers to and from device (default = enabled). Note some device-to-host
  --useSpinWait               Actively synchronize on GPU events. This option may decrease synchronization time
  --useCudaGraph              Use CUDA graph to capture engine execution and then launch inference (default = disabled).
"""
USAGE_11 = """\
  --includeDataTransfers      Enable DMA transfers to and from device (default = disabled). Note some device-to-host
  --noDataTransfers           [Deprecated] DMA transfers are now disabled by default. This flag is a no-op.
  --useSpinWait               [Deprecated] Spin wait is now enabled by default. This flag is a no-op.
  --useCudaGraph              [Deprecated] CUDA graph is now enabled by default. This flag is a no-op.
"""
USAGE_RTX = USAGE_10.replace("--useCudaGraph ", "--rtxCudaGraphStrategy=spec ")


@pytest.fixture
def trtexec(benchmark_module):
    return benchmark_module("_trtexec")


@pytest.fixture
def bench(benchmark_module):
    return benchmark_module("_acceptance_bench")


@pytest.mark.parametrize(("text", "expected"), [(SUMMARY_10, (0.161791, 6130.61)), (SUMMARY_11, (0.0968, 10214.0))])
def test_reads_the_summary(trtexec, text, expected):
    summary = trtexec.parse(text)
    assert (summary.compute_ms, summary.throughput_qps) == expected


@pytest.mark.parametrize("text", ["", "Total GPU Compute Time: 2.9 s\nThroughput: 3 qps", SUMMARY_10.splitlines()[1]])
def test_what_is_no_summary_is_not_read(trtexec, text):
    with pytest.raises(DeployError, match="no performance summary"):
        trtexec.parse(text)


def test_flags_are_those_that_the_tool_has_and_does_not_call_deprecated(trtexec):
    assert trtexec.flags(USAGE_10) == ["--noDataTransfers", "--useSpinWait", "--useCudaGraph"]
    assert trtexec.flags(USAGE_11) == []
    assert trtexec.flags(USAGE_RTX) == ["--noDataTransfers", "--useSpinWait", "--rtxCudaGraphStrategy=wholeGraph"]


def test_shapes_are_named_for_a_dynamic_batch_only(trtexec):
    image, scale = TensorSpec("input", "float32", ("batch", 3, 32, 32)), TensorSpec("scale", "float32", ("batch",))
    assert trtexec.shapes([image, scale], 8) == ["--shapes=input:8x3x32x32,scale:8"]
    assert trtexec.shapes([TensorSpec("input", "float32", (4, 3, 32, 32))], 4) == []


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """An executable named trtexec that prints what the real one does, and keeps its arguments."""

    def install(script):
        path = tmp_path / "bin" / "trtexec"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\ncase \"$*\" in *--help*) cat <<'E'\n{USAGE_10}E\nexit;; esac\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")
        return path

    return install


def test_a_plan_is_timed_by_the_tool(trtexec, tool, tmp_path):
    tool(f"echo \"$*\" > {tmp_path}/arguments; cat <<'E'\n{SUMMARY_10}E")
    inputs = [TensorSpec("input", "float32", ("batch", 3, 32, 32))]
    summary = trtexec.time_plan(trtexec.find("tensorrt"), tmp_path / "net.plan", inputs, 8, 2)
    assert summary.compute_ms == 0.161791
    given = (tmp_path / "arguments").read_text().split()
    assert given[:3] == [f"--loadEngine={tmp_path}/net.plan", "--shapes=input:8x3x32x32", "--duration=2"]
    assert given[-1] == "--useCudaGraph"


def test_what_the_tool_says_on_failing_is_told(trtexec, tool, tmp_path):
    tool("echo '[E] Engine deserialization failed'; exit 1")
    with pytest.raises(DeployError, match="trtexec failed.*Engine deserialization failed"):
        trtexec.time_plan(trtexec.find("tensorrt"), tmp_path / "net.plan", [], 1, 2)


def test_a_tool_that_is_not_there_is_the_machines_lack(trtexec):
    with pytest.raises(MachineError, match="tensorrt_rtx is not on PATH"):
        trtexec.find("tensorrt_rtx")


def result(batch, compute=1.0, **more):
    compute = {"median": compute} if compute else None
    host = {"host_latency_ms": {"median": 2.0}, "images_per_second": 100.0 * batch, "power_w": None}
    return {"batch": batch, "gpu_compute_time_ms": compute, **host, **more}


def test_bench_is_read(bench):
    document = {"results": [result(1), result(8, None)]}
    timed = bench.read_bench(0, json.dumps(document))
    assert timed[1] == {"host_ms": 2.0, "compute_ms": 1.0, "images_per_second": 100.0, "power_w": None}
    assert timed[8]["compute_ms"] is None


def test_a_bench_that_is_not_there_is_missing_and_one_that_fails_has_failed(bench):
    absent = {"error": "argument VERB: invalid choice: 'bench' (choose from 'export')", "got": None, "expected": None}
    with pytest.raises(MachineError, match="bench is not there"):
        bench.read_bench(2, json.dumps(absent))
    with pytest.raises(MachineError, match="bench: no GPU"):
        bench.read_bench(3, json.dumps({"error": "no GPU", "got": None, "expected": None}))
    with pytest.raises(DeployError, match="bench: broken"):
        bench.read_bench(2, json.dumps({"error": "broken", "got": None, "expected": None}))
    with pytest.raises(DeployError, match="printed no JSON.*Segmentation"):
        bench.read_bench(-11, "", "Segmentation fault")


def test_three_percent_is_the_limit(bench):
    same = bench.verdict("trtexec", {1: [1.0, 1.04], 32: [10.0, 10.0]}, {1: [1.0, 1.0], 32: [10.0, 10.2]})
    assert same["failures"] == []
    assert same["ratios"][1] == pytest.approx(1.02)
    slower = bench.verdict("trtexec", {1: [1.0, 1.0], 32: [10.4, 10.5]}, {1: [1.0, 1.0], 32: [10.0, 10.0]})
    assert slower["failures"] == ["4.5 % slower than trtexec at batch 32"]
    faster = bench.verdict("trtexec", {1: [0.5]}, {1: [1.0]})
    assert faster["failures"] == []


def test_a_runner_that_tells_no_compute_time_cannot_pass(bench):
    assert bench.verdict("trtexec", {1: [None]}, {1: [1.0]})["failures"] == [
        "the runner tells no GPU Compute Time: not compared with trtexec"
    ]


def test_ours_and_the_peer_take_turns_at_batch_1_and_the_best(bench, monkeypatch, tmp_path):
    calls = []

    def run(file, batches, seconds, device):
        calls.append(("ours", *batches))
        return {
            batch: {"compute_ms": 1.0 * batch, "images_per_second": {1: 9, 8: 99, 32: 90}[batch]} for batch in batches
        }

    def peer(batch):
        calls.append(("peer", batch))
        return 1.0 * batch

    monkeypatch.setattr(bench, "bench", run)
    monkeypatch.setattr(bench, "_peer", lambda plan, seconds: ("trtexec", peer, []))
    document = bench.measure(tmp_path / "net.plan", [1, 8, 32], 1.0, "cuda")
    assert (document["best_batch"], document["ratios"]) == (8, {1: 1.0, 8: 1.0})
    assert calls == [("ours", 1, 8, 32), ("peer", 1), ("peer", 8), ("ours", 1, 8), ("peer", 1), ("peer", 8)]


def test_without_the_tool_the_bare_loop_is_taken_and_its_absence_told(bench, monkeypatch, tmp_path):
    plan = tmp_path / "net.plan"
    plan.write_bytes(b"plan")
    monkeypatch.setattr(bench, "plan_kind", lambda path: types.SimpleNamespace(flavour="tensorrt"))
    monkeypatch.setattr(bench, "load_flavour", lambda name: None)
    monkeypatch.setattr(bench, "read_plan_manifest", lambda path: types.SimpleNamespace(inputs=()))
    timed = {1: {"compute_ms": 1.0, "images_per_second": 9}}
    monkeypatch.setattr(bench, "bench", lambda *arguments: timed)
    document = bench.measure(plan, [1], 1.0, "cuda")
    first, second = document["notes"]
    assert first == "trtexec is not on PATH: compared with a bare loop over TensorRT's calls"
    assert second.startswith("not compared with a bare loop: the bare loop needs cuda-core and a GPU")
    assert (document["batches"], document["failures"]) == (timed, [])
