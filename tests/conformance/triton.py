"""A real Triton with the suite's models: its Python backend, from the wheel ``nvidia-pytriton``; no GPU, no container.

``TRITON_VENV`` names an environment that has ``REQUIRES``; without it one is made in ``.triton/`` (400 MB).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import REPOSITORY

from conformance.models import CNN, ECHOES, LABELS, MAX_BATCH, MAX_QUEUE, width, write_cnn

# Of its models' segments of shared memory, which those that are killed leave behind.
_PREFIX = f"deploy_triton_{os.getpid()}_"
# With numpy 2 the backend's stub returns empty outputs.
REQUIRES = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime")
_TYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "object": "STRING"}
_ECHO = """
import json, time
import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        replies = []
        for request in requests:
            inputs = {name: utils.get_input_tensor_by_name(request, name).as_numpy() for name in RENAMED}
            if SLOW:
                time.sleep(float(inputs["x"].flat[0]))
            replies.append(utils.InferenceResponse([utils.Tensor(RENAMED[n], array) for n, array in inputs.items()]))
        return replies
"""
_CNN = """
import numpy as np, onnxruntime as ort
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, arguments):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(PATH, options)

    def execute(self, requests):
        rows = [utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        logits = self.session.run(None, {"input": np.concatenate(rows)})[0]
        ends = np.cumsum([len(one) for one in rows])[:-1]
        return [utils.InferenceResponse([utils.Tensor("logits", part)]) for part in np.split(logits, ends)]
"""


def environment() -> Path:
    """The environment's folder, made where it is not there."""
    folder = Path(os.environ.get("TRITON_VENV", REPOSITORY / ".triton"))
    if not (folder / "bin" / "python").exists():
        print(f"installing {', '.join(REQUIRES)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIRES], check=True)
    return folder


class Triton:
    """The server, ready, until :meth:`close`; its log is ``folder/triton.log``. ``grpc`` is the port of gRPC."""

    def __init__(self, folder: Path) -> None:
        self._log, self._ports = folder / "triton.log", _free_ports(3)
        self._command = _command(_repository(folder), _backends(folder), self._ports)
        self.address, self.grpc = ("127.0.0.1", self._ports[0]), self._ports[1]
        self.start()

    def restart(self) -> None:
        """After a request that ended it or one of its models."""
        self.close()
        self.start()

    def start(self, attempts: int = 3) -> None:
        """On a busy machine its models' processes may miss each other: it then ends, and is started again."""
        for attempt in range(attempts):
            self._launch()
            try:
                return self._wait(f"http://127.0.0.1:{self._ports[0]}/v2/health/ready")
            except BaseException as error:
                self.close()
                if attempt == attempts - 1 or not isinstance(error, RuntimeError):
                    raise
        return None

    def _launch(self) -> None:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=_environment(environment()), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _wait(self, url: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.alive:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.2)
        raise RuntimeError(f"Triton is not ready; the end of {self._log}:\n{self._log.read_text()[-3000:]}")

    def close(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # the models' processes outlive a server that crashed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for segment in Path("/dev/shm").glob(f"{_PREFIX}*"):
            segment.unlink(missing_ok=True)

    def __enter__(self) -> Triton:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3*/site-packages"))


def _home() -> Path:
    return _packages(environment()) / "pytriton" / "tritonserver"


def _backends(folder: Path) -> Path:
    """The Python backend and the stub for the environment's Python, which the wheel keeps apart."""
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    version = _packages(environment()).parent.name.removeprefix("python")
    for file in (*(_home() / "backends" / "python").iterdir(), *(_home() / "python_backend_stubs" / version).iterdir()):
        (python / file.name).symlink_to(file)
    return python.parent


def _command(repository: Path, backends: Path, ports: Sequence[int]) -> list[str]:
    named = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports)]
    return [
        str(_home() / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        *named,
        f"--backend-config=python,shm-region-prefix-name={_PREFIX}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-timeout-secs=5",
    ]


def _environment(venv: Path) -> dict[str, str]:
    packages = _packages(venv)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": "1",
    }


def _repository(folder: Path) -> Path:
    for name, renamed in ECHOES.items():
        inputs = {x: (dtype, [width(name)]) for x, (_, dtype) in renamed.items()}
        outputs = {y: (dtype, [width(name)]) for y, dtype in renamed.values()}
        names = {x: y for x, (y, _) in renamed.items()}
        source = f"RENAMED, SLOW = {names}, {name == 'slow'}\n{_ECHO}"
        _model(folder / "models" / name, _config(name, inputs, outputs), source)
    path = write_cnn(folder / "cnn.onnx")
    (folder / "models" / CNN).mkdir(parents=True)
    (folder / "models" / CNN / "labels.txt").write_text("\n".join(LABELS) + "\n")
    config = _config(CNN, {"input": ("float32", [3, 16, 16])}, {"logits": ("float32", [10])}, "labels.txt")
    _model(folder / "models" / CNN, config, f"PATH = {str(path)!r}\n{_CNN}")
    return folder / "models"


def _model(folder: Path, config: str, source: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.py").write_text(source)


def _config(name: str, inputs: dict[str, Any], outputs: dict[str, Any], labels: str | None = None) -> str:
    limits = f"max_queue_size: {MAX_QUEUE} default_timeout_microseconds: 60000000 allow_timeout_override: true"
    return f"""
name: "{name}"
backend: "python"
max_batch_size: {MAX_BATCH}
{_tensors("input", inputs)}
{_tensors("output", outputs, labels)}
dynamic_batching {{ default_queue_policy {{ {limits} }} }}
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


def _tensors(side: str, tensors: dict[str, Any], labels: str | None = None) -> str:
    label = f' label_filename: "{labels}"' if labels else ""
    rows = []
    for name, (dtype, shape) in tensors.items():
        dims = ", ".join("-1" if isinstance(dim, str) else str(dim) for dim in shape)
        rows.append(f'{side} [{{ name: "{name}" data_type: TYPE_{_TYPES[dtype]} dims: [{dims}]{label} }}]')
    return "\n".join(rows)
