"""Prometheus metrics of the requests, whichever protocol they came in."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.serving.telemetry import Telemetry


class RequestCollector(Collector):
    """What ``telemetry`` has counted, read at each scrape."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        told = self._telemetry
        requests = HistogramMetricFamily(
            "deploy_request_seconds",
            "Seconds from a request's head to the last byte of its reply; no model where none got to see it",
            labels=("protocol", "status", "model", "version"),
        )
        for labels, histogram in told.requests.items():
            requests.add_metric(list(labels), histogram.buckets(), histogram.total)
        stages = HistogramMetricFamily(
            "deploy_stage_seconds",
            "Seconds of answered requests in each of their stages",
            labels=("model", "version", "stage"),
        )
        for (model, version), by_stage in told.stages.items():
            for stage, histogram in by_stage.items():
                stages.add_metric([model, version, stage], histogram.buckets(), histogram.total)
        refused = CounterMetricFamily(
            "deploy_requests_refused", "Requests for inference that no model got to see", labels=("protocol", "status")
        )
        for (protocol, status), count in told.refused.items():
            refused.add_metric([protocol, status], count)
        yield from (requests, stages, refused)
