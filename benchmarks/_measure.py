"""Run commands one after the other and compare what they cost: wall time, processor time, peak memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True)
class Cost:
    """What one process and its children cost. ``peak_mb`` is the largest resident set of one of them, in MB (10^6).

    Linux counts the memory of the process that started it, too: a few dozen MB are the least that can be measured.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: Sequence[str | Path], cwd: Path | None = None) -> Cost:
    """Run a command to its end. Its output is shown only if it fails.

    Raises:
        SystemExit: the command failed: a benchmark of something broken means nothing.
    """
    with tempfile.TemporaryFile() as output:
        code, cost = execute(command, cwd, output, subprocess.STDOUT)
        if code:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
            raise SystemExit(f"exit code {code}: {' '.join(map(str, command))}")
    return cost


def execute(
    command: Sequence[str | Path], cwd: Path | None, stdout: IO[bytes], stderr: IO[bytes] | int
) -> tuple[int, Cost]:
    """Run a command to its end: its exit code and what it cost."""
    start = perf_counter()
    process = subprocess.Popen(list(map(str, command)), cwd=cwd, stdout=stdout, stderr=stderr, env=_environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    # getrusage(2): ru_maxrss is in KiB on Linux.
    return process.returncode, Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def _environment() -> dict[str, str]:
    """As users have it: where Python may not keep bytecode, every run would compile ours again, and not the peer's."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Versus:
    """Our costs and a peer's, measured in turns."""

    ours: tuple[Cost, ...]
    peer: tuple[Cost, ...]

    def median(self, side: str, what: str) -> float:
        costs: tuple[Cost, ...] = getattr(self, side)
        return float(statistics.median(getattr(cost, what) for cost in costs))

    def ratio(self, what: str) -> float:
        """Median of the ratios of each turn: what slows the whole machine for a while slows both sides of a turn."""
        turns = zip(self.ours, self.peer, strict=True)
        return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in turns))

    def to_dict(self) -> dict[str, Any]:
        return {
            "ratio": {what: round(self.ratio(what), 3) for what in _COLUMNS},
            "ours": [asdict(cost) for cost in self.ours],
            "peer": [asdict(cost) for cost in self.peer],
        }


def interleave(ours: Callable[[], Cost], peer: Callable[[], Cost], repeats: int) -> Versus:
    """Ours, peer, ours, peer, … after one turn that only fills the caches."""
    turns = [(ours(), peer()) for _ in range(repeats + 1)][1:]
    return Versus(tuple(a for a, _ in turns), tuple(b for _, b in turns))


def images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write ``count`` synthetic JPEG images of ``size`` (height, width) into ``folder``."""
    sys.path.insert(0, str(ROOT))
    from PIL import Image

    from deploy.images.synthetic import synthetic_images

    paths = [folder / f"{index:05}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        (pixels,) = synthetic_images(1, size, seed=index)
        Image.fromarray(pixels).save(path, quality=90)
    return paths


def machine(*packages: str) -> dict[str, Any]:
    """Where a measurement was made: processor, cores this process may use, Python, versions of ``packages``."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def describe(facts: dict[str, Any]) -> str:
    """The machine on one line."""
    rest = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in ("processor", "cores"))
    return f"{facts['processor']}, {facts['cores']} cores, {rest}"


def print_versus(title: str, versus: Versus) -> None:
    """The two sides and their ratio as a small table."""
    print(f"{title} (medians of {len(versus.ours)})")
    print(f"  {'':8}" + "".join(f"{heading:>12}" for heading in _COLUMNS.values()))
    for side in ("ours", "peer"):
        print(f"  {side:8}" + "".join(f"{versus.median(side, what):12.2f}" for what in _COLUMNS))
    print(f"  {'ratio':8}" + "".join(f"{versus.ratio(what):12.3f}" for what in _COLUMNS))


_COLUMNS = {"seconds": "wall s", "cpu_seconds": "cpu s", "peak_mb": "peak MB"}


def _processor() -> str:
    names = [line for line in _cpuinfo() if line.startswith(("model name", "Model"))]
    return names[0].split(":", 1)[1].strip() if names else platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
