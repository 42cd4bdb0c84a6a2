"""Prometheus metrics of the models: their statistics under Triton's names, and what is ours under ``deploy_``.

Source of names, labels and reasons: Triton's user guide, "Metrics", and what Triton 2.51 exposes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.serving.batcher import Batcher
from deploy.serving.repository import Repository
from deploy.serving.request_metrics import RequestCollector
from deploy.serving.statistics import STAGES, Statistics
from deploy.serving.telemetry import Telemetry

_LABELS = ("model", "version")
_COUNTERS: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("nv_inference_request_success", "Requests answered", lambda counted: counted.requests["success"].count),
    ("nv_inference_count", "Rows inferred", lambda counted: counted.inferences),
    ("nv_inference_exec_count", "Runs of the network", lambda counted: counted.executions),
    ("deploy_instance_busy_seconds", "Seconds that instances were taken by runs", lambda counted: counted.busy),
)
_DURATIONS = (
    ("request", "success", "from arrival to answer"),
    ("queue", "queue", "from arrival to start"),
    *((stage, stage, "in this stage of their batch") for stage in STAGES),
)
_GAUGES: tuple[tuple[str, str, Callable[[Batcher], int]], ...] = (
    ("nv_inference_pending_request_count", "Requests not yet started", lambda batcher: batcher.waiting),
    ("deploy_instances", "Instances, each of which runs one batch at a time", lambda batcher: batcher.instances),
)
# Triton's counters lack the _total that prometheus-client puts behind every counter's name.
_TOTAL = re.compile(rb"^((?:# (?:HELP|TYPE) )?nv_\w+)_total(?=[ {])", re.MULTILINE)


class ModelCollector(Collector):
    """The loaded models' statistics, read at each scrape. For the loop that the batchers run on."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        models = [([model.name, model.version], model.batcher) for model in self._repository.loaded()]
        for name, text, count in _COUNTERS:
            yield _counter(name, text, [(labels, count(batcher.statistics)) for labels, batcher in models])
        yield _failures(models)
        for name, kept, text in _DURATIONS:
            times = [(labels, batcher.statistics.requests[kept].ns // 1000) for labels, batcher in models]
            yield _counter(f"nv_inference_{name}_duration_us", f"Microseconds of answered requests {text}", times)
        for name, text, value in _GAUGES:
            yield _gauge(name, text, [(labels, value(batcher)) for labels, batcher in models])
        rows = [([row["name"], row["version"]], int(row["state"] == "READY")) for row in self._repository.index()]
        yield _gauge("deploy_model_ready", "1 where the model is loaded and warmed up", rows)
        queue = HistogramMetricFamily("deploy_queue_seconds", "Seconds that requests waited to start", labels=_LABELS)
        sizes = HistogramMetricFamily("deploy_batch_size", "Rows of the network's runs", labels=_LABELS)
        for labels, batcher in models:
            queue.add_metric(labels, batcher.statistics.queued.buckets(), batcher.statistics.queued.total)
            sizes.add_metric(labels, _size_buckets(batcher), batcher.statistics.inferences)
        yield from (queue, sizes)


def _counter(name: str, text: str, values: Sequence[tuple[list[str], float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=_LABELS)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _gauge(name: str, text: str, values: list[tuple[list[str], int]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _failures(models: list[tuple[list[str], Batcher]]) -> Metric:
    family = CounterMetricFamily("nv_inference_request_failure", "Requests not answered", labels=(*_LABELS, "reason"))
    for labels, batcher in models:
        for reason, duration in batcher.statistics.failures.items():
            family.add_metric([*labels, reason], duration.count)
    return family


def _size_buckets(batcher: Batcher) -> list[tuple[str, float]]:
    """Powers of two below the largest batch, and that."""
    most, runs = batcher.max_batch, _runs(batcher.statistics)
    ends = [1 << power for power in range((most - 1).bit_length())] + [most]
    below = [(str(end), sum(count for rows, count in runs.items() if rows <= end)) for end in ends]
    return [*below, ("+Inf", batcher.statistics.executions)]


def _runs(counted: Statistics) -> dict[int, int]:
    return {rows: stages["compute_infer"].count for rows, stages in counted.batches.items()}


def metrics_application(repository: Repository, telemetry: Telemetry) -> Starlette:
    """The ASGI application of ``GET /metrics``: Prometheus' text format 0.0.4 (OpenMetrics insists on _total).

    The process's own memory, CPU time and open files are there where the system has ``/proc``.
    """
    registry = CollectorRegistry()
    for collector in (ModelCollector(repository), RequestCollector(telemetry), ProcessCollector(registry=None)):
        registry.register(collector)

    async def metrics(request: Request) -> Response:
        text = _TOTAL.sub(rb"\1", generate_latest(registry))
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return Starlette(routes=[Route("/metrics", metrics)])


def by_port(app: ASGIApp, port: int, other: ASGIApp) -> ASGIApp:
    """``app``, but ``other`` for what comes in on ``port``."""

    async def chosen(scope: Scope, receive: Receive, send: Send) -> None:
        await (other if scope["server"][1] == port else app)(scope, receive, send)

    return chosen
