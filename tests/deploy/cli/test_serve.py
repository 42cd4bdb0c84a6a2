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
from serving_files import write_scale
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
    assert (server.returncode, out.splitlines()[-1], err) == (0, "drained", "")
    assert "CPU threads: 2 for models on " in out
    logged = [json.loads(text) for text in (folder / "access.log").read_text().splitlines()]
    asked = [(one["protocol"], one["status"], one["rows"]) for one in logged if one["model"] == "one"]
    assert asked == [("http", 200, 2), ("grpc", "OK", 2)]
    sent = len(json.dumps({"inputs": [given]}))
    assert sent in [one["bytes_in"] for one in logged]  # a body that goes past ASGI's receive()


def factor_of(address, path="net"):
    given = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    reply = httpx.post(f"{address}/v2/models/{path}/infer", json={"inputs": [given]}, timeout=60).json()
    return reply["outputs"][0]["data"][0], reply["model_version"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_and_a_load_pick_up_what_has_changed(tmp_path):
    write_scale(tmp_path / "net" / "1" / "model.onnx", 2)
    command = [sys.executable, "-m", "deploy", "serve", str(tmp_path), "--http-port", "0", "--no-grpc", "--no-metrics"]
    env = environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1")
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=env, **pipes) as server:
        try:
            address = server.stdout.readline().split()[-1]
            assert factor_of(address) == (2, "1")
            write_scale(tmp_path / "net" / "2" / "model.onnx", 3)
            server.send_signal(signal.SIGHUP)
            while "version 2" not in server.stderr.readline():
                assert server.poll() is None
            assert factor_of(address) == (3, "2")
            write_scale(tmp_path / "net" / "2" / "model.onnx", 4)
            assert httpx.post(f"{address}/v2/repository/models/net/load", timeout=60).status_code == 200
            assert factor_of(address) == (4, "2")
            assert factor_of(address, "net/versions/2") == (4, "2")
            assert httpx.get(f"{address}/v2/models/net").json()["versions"] == ["2"]
            server.send_signal(signal.SIGTERM)
            assert server.communicate(timeout=60)[0].endswith("drained\n")
        finally:
            if server.poll() is None:
                os.kill(server.pid, signal.SIGKILL)
    assert server.returncode == 0


def test_check_prints_what_would_be_served(tmp_path, capsys):
    for version in (1, 2, 3):
        write_scale(tmp_path / "net" / str(version) / "model.onnx", 2)
    (tmp_path / "net" / "config.pbtxt").touch()
    (tmp_path / "net.toml").write_text("versions = 2\ninstances = 3\nthreads = 50\nmax_batch = 4")
    write_scale(tmp_path / "flat.onnx", 2)
    assert main(["serve", str(tmp_path), "--check", "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    facts = [
        tuple(row[key] for key in ("model", "version", "instances", "threads", "max_batch"))
        for row in document["served"]
    ]
    assert facts == [("flat", 1, 1, 1, 8), ("net", 2, 3, 50, 4), ("net", 3, 3, 50, 4)]
    assert (document["threads"]["models"], document["threads"]["decode"]) == (301, 2)
    assert "config.pbtxt is not read" in said.err
    assert "the models' 301 threads share" in said.err
    assert main(["serve", str(tmp_path), "--check"]) == 0
    assert "3 × 50" in capsys.readouterr().out
    (tmp_path / "net.toml").write_text("batch = 4")
    assert main(["serve", str(tmp_path), "--check"]) == 2
    assert "net.toml: no such key (got batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/missing.onnx"], "no such file"),
        (["{folder}", "{folder}/one.onnx"], "two models are named 'one'"),
        (["{empty}"], "holds no model"),
        (["{folder}", "--instances", "0"], "--instances is out of range (got 0; expected a whole number, 1 to 256)"),
        (["{folder}", "--http-port", "70000"], "--http-port is no port"),
        (["{folder}", "--grpc-port", "65536"], "--grpc-port is no port"),
        (["{folder}", "--metrics-port", "-1"], "--metrics-port is no port"),
        (["{folder}", "--priorities", "2", "--default-priority", "3"], "expected 0 to --priorities 2"),
        (["{folder}", "--max-body-mb", "0"], "--max-body-mb is out of range"),
        (["{folder}", "--load-model", "one"], "wants --model-control explicit"),
        (["{folder}", "--model-control", "explicit", "--load-model", "three"], "'three' is not found"),
        (["{folder}", "--max-batch", "0"], "--max-batch is out of range"),
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
