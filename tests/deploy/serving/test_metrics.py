"""/metrics as Prometheus reads it, beside what the statistics extension says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_fakes import Echo, tagged

from deploy.errors import InputError
from deploy.serving.errors import QueueFull, TimedOut
from deploy.serving.http import application
from deploy.serving.metrics import metrics_application
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings
from deploy.serving.statistics import STAGES
from deploy.serving.telemetry import Telemetry

ECHO = (("model", "echo"), ("version", "1"))


async def get(app, path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        reply = await client.get(path)
    assert reply.status_code == 200
    return reply


async def scrape(repository, telemetry=None):
    """Sample (name, labels) → value, and metric → type."""
    reply = await get(metrics_application(repository, telemetry or Telemetry()), "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    triton = [line for line in reply.text.splitlines() if "nv_" in line]
    assert not any("_total" in line for line in triton)  # the parser adds it to its own names of counters
    families = list(text_string_to_metric_families(reply.text))
    rows = [sample for family in families for sample in family.samples]
    samples = {(row.name.removesuffix("_total"), tuple(sorted(row.labels.items()))): row.value for row in rows}
    assert len(samples) == len(rows)
    return samples, {family.name: family.type for family in families}


@contextlib.asynccontextmanager
async def loaded(**settings):
    echo = Echo()
    repository = Repository({"echo": lambda: [echo]}, BatchSettings(**settings))
    await repository.load("echo")
    yield echo, repository
    await repository.drain()


async def every_fate(echo, batcher):
    """Three rows answered in two runs, and one request for each way to fail; one still waits."""
    echo.gate.clear()
    first = asyncio.ensure_future(batcher.infer(tagged(1)))
    await asyncio.to_thread(echo.entered.acquire)
    second = asyncio.ensure_future(batcher.infer(tagged(2, 3)))
    with pytest.raises(TimedOut):
        await batcher.infer(tagged(4), timeout=0.001)
    left = asyncio.ensure_future(batcher.infer(tagged(5)))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await batcher.infer(tagged(6))
    left.cancel()
    await asyncio.sleep(0.3)  # `second` has waited for this long at least
    echo.gate.set()
    await asyncio.gather(first, second)
    with pytest.raises(InputError):
        await batcher.infer({"z": tagged(7)["x"]})
    echo.error = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await batcher.infer(tagged(8))
    echo.error = None


def test_the_metrics_are_the_statistics():
    async def check():
        async with loaded(max_batch=6, max_queue=2) as (echo, repository):
            await every_fate(echo, repository.model("echo").batcher)
            (stats,) = (await get(application(Service(repository)), "/v2/models/echo/stats")).json()["model_stats"]
            samples, types = await scrape(repository)
        inferred = stats["inference_stats"]
        assert samples["nv_inference_request_success", ECHO] == inferred["success"]["count"] == 2
        assert samples["nv_inference_count", ECHO] == stats["inference_count"] == 3
        assert samples["nv_inference_exec_count", ECHO] == stats["execution_count"] == 2
        for metric, kept in (("request", "success"), *((stage, stage) for stage in ("queue", *STAGES))):
            assert samples[f"nv_inference_{metric}_duration_us", ECHO] == inferred[kept]["ns"] // 1000
        assert samples["nv_inference_queue_duration_us", ECHO] >= 250_000
        reasons = {
            dict(labels)["reason"]: value
            for (name, labels), value in samples.items()
            if name == "nv_inference_request_failure"
        }
        assert reasons == {"REJECTED": 2, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
        assert sum(reasons.values()) == inferred["fail"]["count"]
        assert {types[name] for name in types if name.startswith("nv_") and "pending" not in name} == {"counter"}

    asyncio.run(check())


def test_an_instance_is_busy_while_it_runs_whether_the_run_succeeds_or_not():
    async def check():
        async with loaded() as (echo, repository):
            assert (await scrape(repository))[0]["deploy_instances", ECHO] == 1
            for echo.error in (None, RuntimeError("broken")):
                before = (await scrape(repository))[0]["deploy_instance_busy_seconds", ECHO]
                echo.gate.clear()
                asked = asyncio.ensure_future(repository.model("echo").batcher.infer(tagged(1)))
                await asyncio.to_thread(echo.entered.acquire)
                await asyncio.sleep(0.05)
                echo.gate.set()
                await asyncio.wait([asked])
                assert (asked.exception() is None) == (echo.error is None)
                assert 0.05 <= (await scrape(repository))[0]["deploy_instance_busy_seconds", ECHO] - before < 1

    asyncio.run(check())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_the_process_tells_of_its_memory_and_open_files():
    async def check():
        async with loaded() as (_, repository):
            samples, _ = await scrape(repository)
        assert samples["process_resident_memory_bytes", ()] == pytest.approx(resident(), rel=0.2)
        assert samples["process_open_fds", ()] >= 3
        assert samples["process_cpu_seconds", ()] > 0

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    asyncio.run(check())


def test_the_histograms_hold_every_request_and_every_run():
    async def check():
        async with loaded(max_batch=6, max_queue=2) as (echo, repository):
            await every_fate(echo, repository.model("echo").batcher)
            samples, types = await scrape(repository)
        sizes = {
            dict(labels)["le"]: value for (name, labels), value in samples.items() if name == "deploy_batch_size_bucket"
        }
        assert sizes == {"1": 1, "2": 2, "4": 2, "6": 2, "+Inf": 2}
        assert (samples["deploy_batch_size_sum", ECHO], samples["deploy_batch_size_count", ECHO]) == (3, 2)
        waits = [value for (name, _), value in samples.items() if name == "deploy_queue_seconds_bucket"]
        assert waits == sorted(waits)
        assert waits[-1] == samples["deploy_queue_seconds_count", ECHO] == 2
        assert samples["deploy_queue_seconds_bucket", (("le", "0.25"), *ECHO)] == 1  # the first one never waited
        queued = samples["nv_inference_queue_duration_us", ECHO]
        assert samples["deploy_queue_seconds_sum", ECHO] == pytest.approx(queued / 1e6, abs=2e-6)
        assert {types["deploy_batch_size"], types["deploy_queue_seconds"]} == {"histogram"}

    asyncio.run(check())


def test_pending_are_those_that_wait_and_an_unloaded_model_is_not_there():
    async def check():
        async with loaded(max_batch=1) as (echo, repository):
            echo.gate.clear()
            batcher = repository.model("echo").batcher
            tasks = [asyncio.ensure_future(batcher.infer(tagged(tag))) for tag in (1, 2, 3)]
            await asyncio.to_thread(echo.entered.acquire)
            samples, types = await scrape(repository)
            assert samples["nv_inference_pending_request_count", ECHO] == 2
            assert types["nv_inference_pending_request_count"] == "gauge"
            echo.gate.set()
            await asyncio.gather(*tasks)
            assert (await scrape(repository))[0]["nv_inference_pending_request_count", ECHO] == 0
            await repository.unload("echo")
            samples, _ = await scrape(repository)
            ours = {sample: value for sample, value in samples.items() if not sample[0].startswith("process_")}
            assert ours == {("deploy_model_ready", ECHO): 0}

    asyncio.run(check())
