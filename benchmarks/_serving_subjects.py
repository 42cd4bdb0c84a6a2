"""The servers that are compared: how each is set up and asked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from _measure import PEERS, ROOT
from _serving_server import Server
from _serving_wire import MODEL, Wire

# What a peer's environment holds besides what ours runs the network and decodes images with.
_PACKAGES = {
    "triton": ("nvidia-pytriton==0.7.0", "numpy==1.26.4"),
    "mlserver": ("mlserver==1.7.1",),
    "litserve": ("litserve==0.2.19",),
}
_SHARED = ("onnxruntime", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Setup:
    """What all servers are given.

    Attributes:
        folder: where their files go; ``peers``: environments by name.
        threads: of ONNX Runtime for one operator.
    """

    graph: Path
    folder: Path
    kind: str
    peers: Path
    threads: int
    max_batch: int


def ours(setup: Setup) -> Server:
    port, grpc, metrics = _free_ports(3)
    command = [sys.executable, "-m", "deploy", "serve", str(setup.graph), "--device", "cpu"]
    command += ["--http-port", str(port), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    command += ["--threads", str(setup.threads), "--max-batch", str(setup.max_batch)]
    return Server("ours", command, "/v2/health/ready", Wire("binary"), port, log=str(setup.folder / "ours.log"))


def in_process(setup: Setup) -> Server:
    arguments = [setup.graph, setup.folder, setup.threads, setup.max_batch]
    return _script(setup, "in-process", "_serving_in_process.py", arguments)


def bare(setup: Setup) -> Server:
    return _script(setup, "bare", "_serving_bare.py", [setup.graph, setup.folder, setup.threads])


def sink(setup: Setup, reply: Path) -> Server:
    """What the load generator is kept busy with beside the bound."""
    (port,) = _free_ports(1)
    return _script(setup, "sink", "_serving_sink.py", [port, reply], port)


def _script(setup: Setup, name: str, script: str, arguments: list[object], port: int = 0) -> Server:
    command = [sys.executable, *map(str, (ROOT / "benchmarks" / script, *arguments))]
    return Server(name, command, "", Wire("raw"), port, log=str(setup.folder / f"{name}.log"))


def triton(setup: Setup) -> Server:
    http, grpc, metrics = _free_ports(3)
    python = environment(setup.peers, "triton")
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    home, repository = site / "pytriton" / "tritonserver", _triton_repository(setup)
    command = [home / "bin" / "tritonserver", f"--model-repository={repository}"]
    command += [
        f"--backend-directory={_triton_backends(setup, home, site.parent.name)}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
    ]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--exit-timeout-secs=5"]
    paths = [str(path) for path in (ROOT, PEERS, site)]
    own = {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "log": str(setup.folder / "triton.log"),
    }
    return Server("triton", list(map(str, command)), "/v2/health/ready", Wire("binary"), http, **own, **_given(setup))


def _triton_backends(setup: Setup, home: Path, python: str) -> Path:
    """The Python backend beside the stub for the environment's Python (``python3.11``), where Triton looks for it."""
    backend = setup.folder / "triton-backends" / "python"
    shutil.copytree(home / "backends" / "python", backend, dirs_exist_ok=True)
    stubs = home / "python_backend_stubs" / python.removeprefix("python")
    shutil.copy(stubs / "triton_python_backend_stub", backend)
    return backend.parent


def _triton_repository(setup: Setup) -> Path:
    model = setup.folder / f"triton-{setup.kind}" / MODEL
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copy(PEERS / "serving_triton.py", model / "1" / "model.py")
    shape = (
        "data_type: TYPE_STRING, dims: [1]" if setup.kind == "image" else "data_type: TYPE_FP32, dims: [3, 224, 224]"
    )
    (model / "config.pbtxt").write_text(
        f'backend: "python"\nmax_batch_size: {setup.max_batch}\n'
        f'input [{{ name: "input", {shape} }}]\n'
        'output [{ name: "logits", data_type: TYPE_FP32, dims: [-1] }]\n'
        "dynamic_batching { max_queue_delay_microseconds: 0 }\n"
        f"instance_group [{{ count: {INSTANCES[setup.kind]}, kind: KIND_CPU }}]\n"
    )
    return model.parent


def mlserver(setup: Setup) -> Server:
    http, grpc, metrics = _free_ports(3)
    python, folder = environment(setup.peers, "mlserver"), setup.folder / "mlserver"
    folder.mkdir(exist_ok=True)
    ports = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    batching = {"max_batch_size": setup.max_batch, "max_batch_time": MLSERVER_DELAY_S}
    model = {"name": MODEL, "implementation": "serving_mlserver.Runtime", **batching}
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": MLSERVER_WORKERS}))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(python.parent / "mlserver"), "start", str(folder)]
    log = str(setup.folder / "mlserver.log")
    return Server("mlserver", command, "/v2/health/ready", Wire("base64"), http, log=log, **_given(setup))


def litserve(setup: Setup) -> Server:
    (port,) = _free_ports(1)
    python = environment(setup.peers, "litserve")
    arguments = [port, setup.max_batch, LITSERVE_DELAY_S, INSTANCES[setup.kind]]
    command = [str(python), str(PEERS / "serving_litserve.py"), *map(str, arguments)]
    log = str(setup.folder / "litserve.log")
    return Server("litserve", command, "/health", Wire("raw"), port, log=log, **_given(setup))


# Where instances decode, a second one does while the first runs the network, as ours does with one.
INSTANCES = {"tensor": 1, "image": 2}
MLSERVER_DELAY_S, MLSERVER_WORKERS, LITSERVE_DELAY_S = 0.002, 0, 0.002

BOUNDS = ("in-process", "bare")
SUBJECTS = {
    "ours": ours,
    "in-process": in_process,
    "bare": bare,
    "triton": triton,
    "mlserver": mlserver,
    "litserve": litserve,
}


def _given(setup: Setup) -> dict[str, str]:
    names = {"GRAPH": setup.graph, "THREADS": setup.threads, "KIND": setup.kind}
    return {f"BENCHMARK_{name}": str(value) for name, value in names.items()}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def environment(peers: Path, name: str) -> Path:
    """The Python of a peer's environment, which is made where it is not there yet."""
    python = peers / name / "bin" / "python"
    if not python.exists():
        print(f"making {python.parents[1]}", file=sys.stderr)
        shared = [f"{package}=={metadata.version(package)}" for package in _SHARED]
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES[name], *shared], check=True)
    return python
