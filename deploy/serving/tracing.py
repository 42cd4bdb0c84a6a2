"""OpenTelemetry traces: a span for each request, one below it for each stage, sent over OTLP/HTTP.

Only this module imports opentelemetry, and only ``serve`` imports it, when traces are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deploy import __version__
from deploy.serving.record import Record
from deploy.serving.telemetry import Background

_PERIOD = 1.0  # seconds between exports
_CHUNK = 100  # requests whose spans fit in the SDK's queue of 2048
_PROPAGATOR = TraceContextTextMapPropagator()


def tracing(endpoint: str | None) -> Background:
    """A sink that sends spans to the collector at ``endpoint`` (``http://127.0.0.1:4318``).

    None takes the collector from OTEL_EXPORTER_OTLP_ENDPOINT and its kin. Sampling, resource attributes, headers and
    time limits are those of the environment (OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, …) in any case.
    """
    provider = TracerProvider(resource=_resource(os.environ), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint and f"{endpoint.rstrip('/')}/v1/traces"))
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("deploy.serving", __version__)

    def write(records: list[Record], dropped: int) -> None:
        for start in range(0, len(records), _CHUNK):
            for record in records[start : start + _CHUNK]:
                _span(tracer, record)
            processor.force_flush()

    return Background(write, provider.shutdown, "traces", traces=True, period=_PERIOD)


def _resource(environment: Mapping[str, str]) -> Resource:
    named = "OTEL_SERVICE_NAME" in environment or "service.name" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": "deploy"})


def _span(tracer: trace.Tracer, record: Record) -> None:
    """The spans of a request that has ended: their times are in the record."""
    parent = _PROPAGATOR.extract(record.parent)
    at, kind = record.at, trace.SpanKind.SERVER
    span = tracer.start_span(_name(record), parent, kind, _attributes(record), start_time=at)
    if span.is_recording():
        below = trace.set_span_in_context(span)
        for stage, seconds in record.laps:
            child = tracer.start_span(stage, below, start_time=at)
            at += round(seconds * 1e9)
            child.end(at)
        if _is_servers_fault(record.status):
            span.set_status(trace.StatusCode.ERROR)
    span.end(record.at + round(record.seconds * 1e9))


def _name(record: Record) -> str:
    """Of few values, as the semantic conventions ask: a path names what is there only where a model was found."""
    if record.status == "UNIMPLEMENTED":
        return "_OTHER"  # the conventions' word for a method that may be anything
    return f"{record.method} {record.path}".rstrip() if record.model or not record.path else record.method


def _attributes(record: Record) -> dict[str, str | int]:
    """Source: OpenTelemetry's semantic conventions for HTTP and gRPC server spans."""
    ours: dict[str, str | int] = {"client.address": record.client}
    if record.protocol == "http":
        ours |= {"http.request.method": record.method, "url.path": record.path, "url.scheme": "http"}
        ours |= {"http.response.status_code": record.status}
    else:
        ours |= {"rpc.system.name": "grpc", "rpc.method": record.method, "rpc.response.status_code": record.status}
    if record.model:
        ours |= {"deploy.model": record.model, "deploy.version": record.version, "deploy.rows": record.rows}
    return ours | ({"deploy.request_id": record.id} if record.id else {})


def _is_servers_fault(status: int | str) -> bool:
    if isinstance(status, int):
        return status >= 500
    return status in ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
