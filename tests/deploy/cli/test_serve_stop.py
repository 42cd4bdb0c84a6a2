"""How ``deploy serve`` ends: whatever it had accepted, whatever hangs, however often it is told."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from commands import REPOSITORY, environment
from PIL import Image

from deploy.cli.main import main

INFER = "/v2/models/m/infer"


class Serving:
    """The process of tests/slow_server.py, with one model ``m``."""

    def __init__(self, folder, *flags):
        (folder / "m.onnx").touch()
        ports = ("--http-port", "0", "--no-grpc", "--no-metrics")
        command = [sys.executable, REPOSITORY / "tests" / "slow_server.py", folder, *ports, *flags]
        env = environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        line = self.process.stdout.readline()
        assert line.startswith("serving m on"), self.process.stderr.read()
        self.url = line.split()[-1]
        host, _, port = self.url.removeprefix("http://").partition(":")
        self.address = host, int(port)

    def infer(self, seconds):
        return httpx.post(f"{self.url}{INFER}", content=body(seconds), timeout=60)

    def signal(self, which=signal.SIGTERM):
        self.process.send_signal(which)
        return time.monotonic()

    def end(self):
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(folder, *flags):
    server = Serving(folder, *flags)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def body(seconds):
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [seconds] * (3 * 32 * 32)}
    return json.dumps({"inputs": [tensor]}).encode()


def png(side):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 30, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def half_sent(address, content, path=INFER):
    """A connection whose request lacks the second half of its body."""
    client = socket.create_connection(address, timeout=60)
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode())
    client.sendall(content[: len(content) // 2])
    return client


def status(client):
    return client.makefile("rb").readline().split()[1]


def test_sigterm_answers_what_is_received_decoded_and_run_and_refuses_what_comes(tmp_path):
    image = png(3000)
    with serving(tmp_path) as server, ThreadPoolExecutor() as pool:
        run = pool.submit(server.infer, 1.5)
        with (
            half_sent(server.address, body(0)) as received,
            half_sent(server.address, image, "/v2/models/m/classify") as decoded,
        ):
            time.sleep(0.5)
            decoded.sendall(image[len(image) // 2 :])  # its decoding takes a while, and it is not in the queue before
            server.signal()
            time.sleep(0.3)
            late = httpx.post(f"{server.url}{INFER}", content=body(0))
            assert (late.status_code, late.json()) == (503, {"error": "the server stops"})
            assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
            assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
            received.sendall(body(0)[len(body(0)) // 2 :])
            assert (status(received), status(decoded)) == (b"200", b"200")
        assert run.result().status_code == 200
        assert server.end() == (0, "drained\n", "")
        with pytest.raises(httpx.ConnectError):
            server.infer(0)


def test_a_reply_that_is_being_read_is_waited_for(tmp_path):
    content = body(0)[:-1] + b', "id": "' + b"x" * (20 << 20) + b'"}'  # more than the kernel keeps
    with serving(tmp_path) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(server.address)
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        slow.recv(1)
        server.signal()
        time.sleep(0.5)
        assert server.process.poll() is None
        got = slow.makefile("rb").read()
        assert len(got) > 20 << 20
        assert json.loads(got[got.index(b"{") :])["id"] == "x" * (20 << 20)
        assert server.end() == (0, "drained\n", "")


def test_a_reply_that_nobody_reads_is_said_at_the_limit(tmp_path):
    content = body(0)[:-1] + b', "id": "' + b"x" * (20 << 20) + b'"}'
    with serving(tmp_path, "--drain-seconds", "1") as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(server.address)
        deaf.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        deaf.recv(1)
        server.signal()
        code, _, err = server.end()
        assert code == 1
        assert "some requests were not answered" in err


def test_a_run_that_hangs_does_not_keep_the_process(tmp_path):
    with serving(tmp_path, "--drain-seconds", "1") as server, ThreadPoolExecutor() as pool:
        hangs = pool.submit(server.infer, 3600.0)
        time.sleep(0.5)
        start = server.signal()
        code, out, err = server.end()
        assert (code, out) == (1, "")
        assert err.startswith("error: some requests were not answered (expected all within 1 s of the signal)")
        assert 1 <= time.monotonic() - start < 10
        assert hangs.result().status_code == 503


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_the_second_signal_ends_at_once(tmp_path, first, second):
    with serving(tmp_path) as server, ThreadPoolExecutor() as pool:
        lost = pool.submit(server.infer, 3600.0)
        time.sleep(0.5)
        server.signal(first)
        time.sleep(0.5)
        assert server.process.poll() is None
        start = server.signal(second)
        code, _, err = server.end()
        assert time.monotonic() - start < 5
        assert (code, err) == (128 + second, "stopped at once: some requests may not have been answered\n")
        with pytest.raises(httpx.HTTPError):
            lost.result()


def test_connections_are_bounded(tmp_path):
    with serving(tmp_path, "--max-connections", "2") as server:
        with socket.create_connection(server.address), socket.create_connection(server.address):
            time.sleep(0.2)
            refused = server.infer(0)
            assert (refused.status_code, refused.json()) == (503, {"error": "the server has too many connections"})
        time.sleep(0.2)
        assert server.infer(0).status_code == 200


def test_more_connections_than_the_system_allows_are_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "m.onnx").touch()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (400, 400))
    assert main(["serve", str(tmp_path), "--http-port", "0", "--no-grpc", "--no-metrics"]) == 3
    assert "give --max-connections 144" in capsys.readouterr().err
