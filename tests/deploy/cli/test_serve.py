"""``deploy serve`` as a process: a folder is served, SIGTERM drains, mistakes are one line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import grpc as grpcio
import httpx
import numpy as np
import onnx
import pytest
import tritonclient.grpc
from commands import REPOSITORY, environment
from graphs import old_graph
from tritonclient.grpc import service_pb2_grpc

from deploy.cli.main import main
from deploy.runtime.open import open_runner


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        onnx.save(old_graph(17), tmp_path / f"{name}.onnx")
    return tmp_path


def test_a_folder_is_served_and_sigterm_drains(folder):
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log = ["--access-log", str(folder / "access.log")]
    command = [sys.executable, "-m", "deploy", "serve", str(folder), *ports, *log, "--threads", "1"]
    done = threading.Event()
    env = environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("serving one, two on http://127.0.0.1:"), server.stderr.read()
            address = line.split()[-1]
            grpc = server.stdout.readline()
            assert grpc.startswith("gRPC on 127.0.0.1:")
            metrics = server.stdout.readline().split()[-1]
            assert httpx.get(f"{address}/v2/health/ready").status_code == 200
            metadata = httpx.get(f"{address}/v2/models/one").json()
            (tensor,) = metadata["inputs"]
            rows = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
            given = {**tensor, "shape": list(rows.shape), "data": rows.reshape(-1).tolist()}
            reply = httpx.post(f"{address}/v2/models/one/infer", content=json.dumps({"inputs": [given]}), timeout=60)
            (output,) = reply.json()["outputs"]
            with open_runner(folder / "one.onnx", threads=1) as runner:
                (expected,) = runner.infer({tensor["name"]: rows}).values()
            np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, rtol=1e-4, atol=1e-5)
            with tritonclient.grpc.InferenceServerClient(grpc.split()[-1]) as client:
                image = tritonclient.grpc.InferInput(tensor["name"], list(rows.shape), "FP32")
                image.set_data_from_numpy(rows)
                again = client.infer("one", [image]).as_numpy(output["name"])
            np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
            counted = httpx.get(metrics)
            assert 'nv_inference_count{model="one",version="1"} 4.0\n' in counted.text
            for protocol, status in (("http", "2xx"), ("grpc", "OK")):
                labels = f'model="one",protocol="{protocol}",status="{status}",version="1"'
                assert f"deploy_request_seconds_count{{{labels}}} 1.0\n" in counted.text
            assert httpx.get(metrics.replace("/metrics", "/v2")).status_code == 404
            assert httpx.get(f"{address}/metrics").status_code == 404
            with grpcio.insecure_channel(grpc.split()[-1]) as channel:
                # A stream on which nothing happens does not hold the end up.
                stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(done.wait, True))
                assert httpx.get(f"{address}/v2/health/ready").status_code == 200
                server.send_signal(signal.SIGTERM)
                out, err = server.communicate(timeout=20)
                assert stream.code() == grpcio.StatusCode.UNAVAILABLE
        finally:
            done.set()
            if server.poll() is None:
                os.kill(server.pid, signal.SIGKILL)
    assert (server.returncode, out, err) == (0, "drained\n", "")
    logged = [json.loads(text) for text in (folder / "access.log").read_text().splitlines()]
    asked = [(one["protocol"], one["status"], one["rows"]) for one in logged if one["model"] == "one"]
    assert asked == [("http", 200, 2), ("grpc", "OK", 2)]
    sent = len(json.dumps({"inputs": [given]}))
    assert sent in [one["bytes_in"] for one in logged]  # a body that goes past ASGI's receive()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/missing.onnx"], "no such file"),
        (["{folder}", "{folder}/one.onnx"], "two models are named 'one'"),
        (["{empty}"], "holds no model"),
        (["{folder}", "--instances", "0"], "--instances is a count"),
        (["{folder}", "--http-port", "70000"], "--http-port is no port"),
        (["{folder}", "--grpc-port", "65536"], "--grpc-port is no port"),
        (["{folder}", "--metrics-port", "-1"], "--metrics-port is no port"),
        (["{folder}", "--max-batch", "0"], "are counts"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path_factory, arguments, message, capsys):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "notes.txt").touch()
    given = [argument.format(folder=folder, empty=empty) for argument in arguments]
    assert main(["serve", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_graph_stops_the_start_with_its_reason(tmp_path, capsys):
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    assert main(["serve", str(tmp_path), "--http-port", "0", "--no-grpc", "--no-metrics"]) == 2
    assert "ONNX Runtime cannot load" in capsys.readouterr().err


def test_without_grpcio_the_extra_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grpc", None)
    for name in ("grpc_server", "grpc_calls"):
        monkeypatch.delitem(sys.modules, f"deploy.serving.{name}", raising=False)
    assert main(["serve", str(folder), "--http-port", "0", "--grpc-port", "0", "--no-metrics"]) == 3
    said = capsys.readouterr().err
    assert "gRPC needs grpc, which is not installed" in said
    assert "pip install '.[serve]', or give --no-grpc" in said


@pytest.mark.parametrize(
    ("arguments", "on"),
    [
        ([], True),
        (["--host", "::1"], True),
        (["--host", "localhost"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--shared-memory"], True),
        (["--no-shared-memory"], False),
    ],
)
def test_shared_memory_is_for_who_is_on_the_same_machine(folder, monkeypatch, arguments, on):
    seen = []

    def serve(app, repository, **options):
        seen.append(httpx.ASGITransport(app))
        return True

    async def extensions():
        async with httpx.AsyncClient(transport=seen[0], base_url="http://x") as client:
            return (await client.get("/v2")).json()["extensions"]

    monkeypatch.setattr("deploy.serving.server.serve", serve)
    assert main(["serve", str(folder), *arguments]) == 0
    assert ("system_shared_memory" in asyncio.run(extensions())) == on


def test_json_tells_the_addresses(folder):
    ports = ["--http-port", "0", "--no-grpc", "--no-metrics"]
    command = [sys.executable, "-m", "deploy", "serve", str(folder), *ports, "--json"]
    env = environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            told = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert (told["models"], told["grpc"], told["metrics"]) == (["one", "two"], None, None)
    assert told["address"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_said(folder, flag, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        assert main(["serve", str(folder), *free, flag, port]) == 3
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port} (got address already in use)" in said
    assert f"Give another {flag}." in said
