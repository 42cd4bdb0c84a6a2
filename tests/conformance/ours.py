"""Our server with the suite's models, as a process: the command line itself, but for where runners come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from commands import REPOSITORY, environment

from conformance.models import ECHOES, MAX_BATCH, MAX_QUEUE, NAMES, Echo, write_cnn
from deploy.runtime import open as opening
from deploy.runtime.base import Runner


class Ours:
    """The server, ready, until :meth:`close`, which drains it. ``grpc`` is the port of gRPC."""

    def __init__(self, folder: Path) -> None:
        for name in NAMES:  # only the CNN's is read
            write_cnn(folder / f"{name}.onnx")
        ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
        options = ("--max-batch", str(MAX_BATCH), "--queue", str(MAX_QUEUE), "--threads", "1", "--json")
        command = [sys.executable, "-m", "conformance.ours", "serve", str(folder), *ports, *options]
        env = environment(PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}", PYTHONUNBUFFERED="1")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        ports = _document(self._process)
        address = urlsplit(ports["address"])
        self.address, self.grpc = (address.hostname, address.port), int(ports["grpc"].rsplit(":", 1)[1])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def restart(self) -> None:
        raise AssertionError("a request ended the server")

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0, f"it was not drained: {self._process.returncode}"

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _document(server: subprocess.Popen[str]) -> dict[str, Any]:
    lines = []
    while not lines or lines[-1] not in ("}\n", ""):
        lines.append(server.stdout.readline())
    return json.loads("".join(lines))


def _open(path: Path, **options: Any) -> Runner:
    return Echo(path.stem) if path.stem in ECHOES else _open_file(path, **options)


if __name__ == "__main__":
    from deploy.cli.main import main

    _open_file, opening.open_runner = opening.open_runner, _open
    sys.exit(main(sys.argv[1:]))
