"""Traces as a collector gets them: OTLP over HTTP, read with OpenTelemetry's own messages."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving_fakes import Colours, Echo, encoded

from deploy.cli.main import main
from deploy.serving.http import application
from deploy.serving.record import STAGES, Record
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings
from deploy.serving.telemetry import Telemetry, traces_wanted
from deploy.serving.tracing import tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def collector():
    """The address of a collector, and what it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            got.append((self.path, ExportTraceServiceRequest.FromString(plain)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join(30)


def spans(got):
    return [span for _, request in got for one in request.resource_spans for s in one.scope_spans for span in s.spans]


def attributes(thing):
    values = {pair.key: pair.value for pair in thing.attributes}
    return {key: value.string_value or value.int_value for key, value in values.items()}


def traced(posts):
    """What the collector got of requests to a server of two models: (path, content, headers) each."""

    async def run(sink):
        telemetry = Telemetry([sink])
        repository = Repository({"echo": lambda: [Echo()], "colours": lambda: [Colours()]}, BatchSettings())
        for name in ("echo", "colours"):
            await repository.load(name)
        app = application(Service(repository, telemetry=telemetry))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            for path, content, headers in posts:
                await client.post(path, content=content, headers=headers)
        await repository.drain()
        telemetry.close()

    with collector() as (address, got):
        asyncio.run(run(tracing(address)))
    return got


def test_a_request_is_a_span_under_its_callers_with_one_for_each_stage():
    before = time.time_ns()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    got = traced([("/v2/models/colours/classify", encoded((9, 9, 9)), headers)])
    assert {path for path, _ in got} == {"/v1/traces"}
    assert attributes(got[0][1].resource_spans[0].resource)["service.name"] == "deploy"
    (root,) = [span for span in spans(got) if span.parent_span_id.hex() == PARENT]
    children = [span for span in spans(got) if span.parent_span_id == root.span_id]
    assert {span.trace_id.hex() for span in spans(got)} == {TRACE}
    assert len(spans(got)) == 1 + len(children)
    assert root.name == "POST /v2/models/colours/classify"
    assert root.kind == root.SPAN_KIND_SERVER
    told = attributes(root)
    assert (told["http.response.status_code"], told["deploy.model"], told["deploy.rows"]) == (200, "colours", 1)
    assert [child.name for child in children] == list(STAGES)
    assert before <= root.start_time_unix_nano == children[0].start_time_unix_nano
    for one, following in itertools.pairwise(children):
        assert one.start_time_unix_nano <= one.end_time_unix_nano == following.start_time_unix_nano
    assert abs(children[-1].end_time_unix_nano - root.end_time_unix_nano) < 1000
    assert root.end_time_unix_nano <= time.time_ns()


def test_a_caller_that_samples_nothing_gets_nothing():
    posts = [("/v2/models/echo/infer", b"{}", {"traceparent": f"00-{TRACE}-{PARENT}-00"})]
    assert spans(traced(posts)) == []


def test_a_path_that_names_no_model_is_no_name_of_a_span():
    (root,) = [span for span in spans(traced([("/v2/models/x/infer", b"{}", {})])) if not span.parent_span_id]
    assert root.name == "POST"
    assert attributes(root)["url.path"] == "/v2/models/x/infer"
    assert root.status.code == root.status.STATUS_CODE_UNSET  # 404 is the client's fault


@pytest.mark.parametrize(
    ("status", "error"), [("OK", False), ("INVALID_ARGUMENT", False), ("INTERNAL", True), ("UNIMPLEMENTED", True)]
)
def test_a_grpc_call_has_grpcs_names(status, error):
    with collector() as (address, got):
        sink = tracing(address)
        sink.put(Record("grpc", "/inference.GRPCInferenceService/ModelInfer", client="::1", status=status))
        sink.close()
    (root,) = spans(got)
    method = "/inference.GRPCInferenceService/ModelInfer"
    assert root.name == ("_OTHER" if status == "UNIMPLEMENTED" else method)
    expected = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": status}
    assert attributes(root) == {"client.address": "::1", **expected}
    assert (root.status.code == root.status.STATUS_CODE_ERROR) == error


def test_the_environments_names_are_kept(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "kitchen")
    with collector() as (address, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        sink = tracing(None)
        sink.put(Record("http", "GET", "/v2"))
        sink.close()
    assert attributes(got[0][1].resource_spans[0].resource)["service.name"] == "kitchen"


def test_hundreds_of_requests_in_a_second_lose_no_span():
    with collector() as (address, got):
        sink = tracing(address)
        for _ in range(450):
            record = Record("http", "GET", "/v2")
            for stage in STAGES:
                record.end(stage)
            sink.put(record)
        sink.close()
    assert len(spans(got)) == 450 * (1 + len(STAGES))


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_asks_for_traces(environment, wanted):
    assert traces_wanted(environment) is wanted


def test_an_endpoint_is_a_url(capsys, tmp_path):
    assert main(["serve", str(tmp_path), "--otlp-endpoint", "localhost:4318"]) == 2
    assert "http://127.0.0.1:4318" in capsys.readouterr().err


def test_opentelemetry_is_not_imported_unasked():
    code = (
        "import sys, deploy.cli.serve, deploy.serving.http, deploy.serving.server, deploy.serving.access_log\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
