"""A server in processes of its own: started, stopped in place, ended, and what its processes cost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import PEERS, ROOT
from _serving_wire import Wire

READY_S, STOP_S = 60.0, 15.0


@dataclass(frozen=True)
class Usage:
    """Of all processes of a server: processor seconds so far, proportional set size in MB (10^6)."""

    cpu_s: float
    memory_mb: float


class Server:
    """A server in processes of its own. Stopped in place (SIGSTOP) while another is measured."""

    def __init__(self, name: str, command: list[str], health: str, wire: Wire, port: int, **environment: str) -> None:
        self.name, self.wire, self.port = name, wire, port
        self._log = Path(environment.pop("log")).open("wb")  # noqa: SIM115 - closed by stop
        own = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PEERS)]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if not health else self._log,
            stderr=self._log,
            env={**os.environ, **own, **environment},
            text=not health,
        )
        try:
            self._wait_until_ready(health)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, health: str) -> None:
        if not health:
            if self.line() != "ready\n":
                raise SystemExit(f"{self.name} does not start: {self._tail()}")
            return
        limit = time.monotonic() + READY_S
        while not _answers(self.port, health):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{self.name} does not start: {self._tail()}")
            time.sleep(0.05)

    def _tail(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-5000:]

    def line(self) -> str:
        """The next line that it prints."""
        return self.process.stdout.readline()

    def tell(self, document: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()

    def usage(self) -> Usage:
        pids = _tree(self.process.pid)
        return Usage(sum(map(_cpu_s, pids)), sum(map(_memory_mb, pids)))

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self.resume()
        pids = _tree(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        _send(signal.SIGKILL, pids)
        self.process.wait()
        self._log.close()

    def _signal(self, number: int) -> None:
        _send(number, _tree(self.process.pid))


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def _tree(root: int) -> list[int]:
    """A process and its descendants, those first that started the others (proc(5): the parent follows the state)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pids = [root]
    for pid in pids:
        pids += children.get(pid, [])
    return pids


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _memory_mb(pid: int) -> float:
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) * 1024 / 1e6
