"""Thousands of damaged requests: an answer in time, never an error of the server's own, and the next one is right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings

from conformance.models import CNN, NAMES, Echo, write_cnn
from conformance.mutations import byte_requests, byte_streams, json_requests
from conformance.observe import answers
from conformance.ours import Ours
from conformance.requests import Request, infer
from deploy.runtime.open import open_runner
from deploy.serving.http import application
from deploy.serving.repository import Repository
from deploy.serving.service import Limits, Service
from deploy.serving.settings import BatchSettings

SECONDS = 10.0
QUICK = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
LEAKS = re.compile(r"Traceback|\.py\b|site-packages|internal error")


_CONNECTION = {"scheme": "http", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000)}


class InProcess:
    """The ASGI application on a loop of its own; no socket."""

    def __init__(self, folder):
        cnn = write_cnn(folder / "cnn.onnx")
        openers = {name: lambda name=name: [Echo(name)] for name in NAMES if name != CNN}
        openers[CNN] = lambda: [open_runner(cnn, threads=1)]
        self.repository = Repository(openers, BatchSettings())
        self.app = application(Service(self.repository, Limits(body=1_000_000, pixels=100_000, body_seconds=5)))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        for name in NAMES:
            self.wait(self.repository.load(name))

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    def __call__(self, request: Request) -> tuple[int, bytes]:
        return self.wait(self._call(request))

    async def _call(self, request: Request) -> tuple[int, bytes]:
        path, _, query = request.path.partition("?")
        headers = [(name.lower().encode(), value.encode()) for name, value in dict(request.headers).items()]
        scope = {"type": "http", "http_version": "1.1", "method": request.method, "headers": headers, **_CONNECTION}
        scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}
        incoming = [{"type": "http.request", "body": request.body or b"", "more_body": False}]
        sent = []

        async def receive():
            if not incoming:
                await asyncio.Event().wait()  # the client stays
            return incoming.pop()

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    def close(self):
        self.wait(self.repository.drain())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = InProcess(tmp_path_factory.mktemp("fuzz"))
    yield server
    server.close()


def check(server: InProcess, request: Request) -> None:
    status, body = server(request)
    assert status < 500 or status == 501, body
    if status >= 400 and request.method != "HEAD" and body:
        error = json.loads(body)["error"]
        assert not LEAKS.search(error)
        assert len(error) < 600
    status, body = server(infer())
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [1, 2])


@pytest.mark.slow
@given(request=json_requests())
@settings(max_examples=2000, **QUICK)
def test_json_of_another_structure(server, request):
    check(server, request)


@pytest.mark.slow
@given(request=byte_requests())
@settings(max_examples=2000, **QUICK)
def test_damaged_bodies_headers_and_paths(server, request):
    check(server, request)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with Ours(tmp_path_factory.mktemp("process")) as server:
        yield server


@pytest.mark.slow
@given(stream=byte_streams())
@settings(max_examples=400, **QUICK)
def test_damaged_streams(process, stream):
    received = exchanged(process.address, stream)
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3})", received, re.MULTILINE)]
    assert [status for status in statuses if status >= 500 and status != 501] == [], received
    assert not LEAKS.search(received.decode("latin-1"))
    assert answers(process)


def exchanged(address: tuple[str, int], stream: bytes) -> bytes:
    """All that comes back until the connection ends: at the latest when this side has ended its own."""
    received = b""
    with socket.create_connection(address, timeout=0.05) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(stream)
        with contextlib.suppress(TimeoutError):
            while chunk := connection.recv(65536):
                received += chunk
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(SECONDS)
        while chunk := connection.recv(65536):
            received += chunk
    return received
