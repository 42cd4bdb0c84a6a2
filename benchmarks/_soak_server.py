"""The server under the soak test: a real process, watched from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from _measure import ROOT

DRAIN_SECONDS, QUEUE = 30.0, 48


@dataclass(frozen=True)
class Sample:
    """What the process held ``seconds`` after the start of the load."""

    seconds: float
    rss_mb: float
    descriptors: int
    threads: int


class Server:
    """``python -m deploy serve`` on free ports. Its stderr must stay empty but for what the requests deserve."""

    def __init__(self, models: Path, log: Path, *flags: str) -> None:
        ports = ["--http-port", "0", "--metrics-port", "0", *self._grpc(), *flags]
        limits = ["--queue", str(QUEUE), "--max-batch", "8", "--threads", "1", "--drain-seconds", str(DRAIN_SECONDS)]
        command = [sys.executable, "-m", "deploy", "serve", str(models), *ports, *limits, "--json"]
        self.log = log
        with log.open("w") as errors:
            env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
        self.document = self._ready()
        host, _, port = self.document["address"].removeprefix("http://").partition(":")
        self.address = host, int(port)

    @staticmethod
    def _grpc() -> list[str]:
        """A server that speaks gRPC is asked for it."""
        told = subprocess.run(
            [sys.executable, "-m", "deploy", "serve", "--help"], capture_output=True, text=True, cwd=ROOT
        )
        return ["--grpc-port", "0"] if "--grpc-port" in told.stdout else []

    def _ready(self) -> dict[str, Any]:
        lines = ""
        for line in self.process.stdout:
            lines += line
            if line.startswith("}"):
                return json.loads(lines)
        raise SystemExit(f"the server did not start: {self.log.read_text()}")

    def get(self, path: str) -> Any:
        with urlopen(f"{self.document['address']}{path}", timeout=60) as reply:  # noqa: S310 - ours
            return json.loads(reply.read() or b"null")

    def post(self, path: str) -> None:
        with urlopen(Request(f"{self.document['address']}{path}", b"{}"), timeout=90) as reply:  # noqa: S310 - ours
            reply.read()

    def metrics(self) -> str:
        with urlopen(self.document["metrics"], timeout=60) as reply:  # noqa: S310 - ours
            return reply.read().decode()

    def sample(self, start: float) -> Sample:
        folder = Path(f"/proc/{self.process.pid}")
        fields = dict(re.findall(r"^(\w+):\s+(\d+)", (folder / "status").read_text(), re.MULTILINE))
        held = len(list((folder / "fd").iterdir()))
        return Sample(time.monotonic() - start, int(fields["VmRSS"]) * 1024 / 1e6, held, int(fields["Threads"]))


class Watch(threading.Thread):
    """Samples the server each second until it is stopped."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server, self._ended, self._start = server, threading.Event(), time.monotonic()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._ended.wait(1):
            self.samples.append(self._server.sample(self._start))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def after(self, seconds: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.seconds >= seconds]


def growth(samples: list[Sample]) -> dict[str, float]:
    """RSS of the samples: line of least squares in MB per minute, and what it gains over the samples, in percent.

    The line goes through the medians of twenty parts: a large request is a peak, not a growth. ``gained_percent`` is of
    the line's start; ``fifths_percent`` compares the medians of the last and the first fifth.
    """
    parts = [part for part in np.array_split(np.array([(one.seconds, one.rss_mb) for one in samples]), 20) if len(part)]
    seconds, rss = np.array([np.median(part, axis=0) for part in parts]).T
    slope, start = np.polyfit(seconds - seconds[0], rss, 1)
    fifth = max(1, len(samples) // 5)
    first, last = (float(np.median([one.rss_mb for one in some])) for some in (samples[:fifth], samples[-fifth:]))
    return {
        "first_mb": first,
        "last_mb": last,
        "max_mb": max(one.rss_mb for one in samples),
        "slope_mb_per_minute": float(slope * 60),
        "gained_percent": float(100 * slope * (seconds[-1] - seconds[0]) / start),
        "fifths_percent": 100 * (last / first - 1),
    }
