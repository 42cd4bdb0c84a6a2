"""``bench`` over the engine runner itself, on simulated TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Cli
from tensorrt_api.cuda import LIVE, SimulatedCuda
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.runtime.trt import TrtRunner
from deploy.specs import ShapeProfile
from deploy.workflows import bench_subjects

BENCH = ("bench", "net.plan", "net.plan", "--duration-s", "0.1")


@pytest.fixture(params=[APIS[0], APIS[-2], APIS[-1]], ids=str)
def opened(request, empty: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """``net.plan`` for batches of 1 to 8; what each opening of it was told of requests at once."""
    flavour, told = simulate(request.param), list[int]()
    Path("net.plan").write_bytes(build_engine(network(), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan)

    def open_simulated(path: Path, *, requests: int, eager: bool, **_: object) -> TrtRunner:
        told.append(requests)
        return TrtRunner(path.read_bytes(), flavour, SimulatedCuda(), lanes=requests, eager=eager)

    monkeypatch.setattr(bench_subjects, "open_runner", open_simulated)
    return told


def test_all_parts_of_a_query_at_every_batch(cli: Cli, opened: list[int]):
    document = cli.done(*BENCH, "--batch", "1,8", "--json").document
    assert [(row["file"], row["batch"]) for row in document["results"]] == [("net.plan", b) for b in (1, 1, 8, 8)]
    for row in document["results"]:
        assert row["timed_by"] == "CUDA events"
        assert row["gpu_memory_mb"] > 0
        parts = ("latency_ms", "h2d_latency_ms", "gpu_compute_time_ms", "d2h_latency_ms", "enqueue_time_ms")
        assert all(row[part]["median"] >= 0 for part in parts)
        assert row["host_latency_ms"]["median"] > 0
    assert opened == [2, 2]
    assert not LIVE


def test_every_client_has_a_lane(cli: Cli, opened: list[int]):
    cli.done(*BENCH, "--concurrency", "3")
    assert opened == [3, 3]


def test_a_batch_outside_the_profile(cli: Cli, opened: list[int]):
    error = cli.refused(2, *BENCH, "--batch", "16")
    assert "net.plan was not built for this batch (got 16; expected 1 to 8). Build it again with --batch" in error
    assert not LIVE
