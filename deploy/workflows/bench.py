"""How fast graphs and engines are on this machine, side by side."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import cycle
from pathlib import Path
from typing import Any

from deploy.bench.counters import GpuCounters, open_counters
from deploy.bench.load import Feeds, Load
from deploy.bench.result import Result
from deploy.bench.turns import Progress, Series, Settings, measure
from deploy.hardware import devices, processor
from deploy.workflows.bench_subjects import BenchSubject, batches_for, open_bench_subject

Warn = Callable[[str], None]

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")


@dataclass(frozen=True)
class BenchRequest:
    """What to measure, and how.

    Attributes:
        batches: None takes the files' own, or 1.
        data: real inputs; None makes them up.
        threads: of the CPU, for one operator; None is all cores.
    """

    files: tuple[Path, ...]
    batches: tuple[int, ...] | None = None
    settings: Settings = field(default_factory=Settings)
    device: str = "auto"
    threads: int | None = None
    data: Path | None = None


@dataclass(frozen=True)
class BenchReport:
    """Results by batch, the files in the order given.

    Attributes:
        files: of each file, how it was run (:meth:`~deploy.workflows.bench_subjects.BenchSubject.to_dict`).
        host_memory: bytes, the most that this process held, with all files open.
    """

    request: BenchRequest
    files: tuple[dict[str, Any], ...]
    results: tuple[Result, ...]
    inputs: str
    machine: dict[str, Any]
    host_memory: int

    def rows(self) -> Iterator[tuple[dict[str, Any], Result]]:
        """Each result, with how its file was run."""
        return zip(cycle(self.files), self.results)

    @property
    def warnings(self) -> list[str]:
        return [text for result in self.results for text in result.warnings()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "settings": {
                **asdict(self.request.settings),
                "device": self.request.device,
                "threads": self.request.threads,
                "inputs": self.inputs,
            },
            "host_memory_peak_mb": self.host_memory / 1e6,
            "results": [{**about, **result.to_dict()} for about, result in self.rows()],
            "warnings": self.warnings,
        }


def bench(request: BenchRequest, warn: Warn, progress: Progress) -> BenchReport:
    """Open all files, then measure them in turns, batch by batch.

    Raises:
        InputError: a file cannot be read, or a batch is none that it takes.
        MachineError: a file cannot run here, or only as a simulation.
    """
    counters, machine = open_counters(), _machine()
    with contextlib.ExitStack() as opened:
        subjects = [_open(path, request, counters, opened, warn) for path in request.files]
        batches = batches_for(subjects, request.batches)
        feeds = {batch: [subject.feeds(batch, request.data, warn) for subject in subjects] for batch in batches}
        for subject, fed in zip(subjects, feeds[max(batches)]):
            subject.run_first(fed[0], counters)
        results: list[Result] = []
        for index, batch in enumerate(batches):
            series = _series(subjects, feeds[batch], request.settings.concurrency, counters, opened)
            measure(series, request.settings, _share(progress, index, len(batches)))
            results += [Result.of(str(s.path), batch, each, series[0]) for s, each in zip(subjects, series)]
        return BenchReport(
            request=request,
            files=tuple(subject.to_dict() for subject in subjects),
            results=tuple(results),
            inputs=str(request.data) if request.data else "made up",
            machine=machine,
            host_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # in KiB on Linux
        )


def _series(
    subjects: Sequence[BenchSubject],
    feeds: Sequence[Sequence[Feeds]],
    clients: int,
    counters: GpuCounters | None,
    opened: contextlib.ExitStack,
) -> list[Series]:
    loads = [Load(subject.runner, fed, clients) for subject, fed in zip(subjects, feeds)]
    for load in loads:
        opened.callback(load.close)  # before its runner
    return [Series(load, counters if subject.on_gpu else None) for subject, load in zip(subjects, loads)]


def _open(
    path: Path, request: BenchRequest, counters: GpuCounters | None, opened: contextlib.ExitStack, warn: Warn
) -> BenchSubject:
    subject = open_bench_subject(path, request.device, request.threads, request.settings.concurrency, counters, warn)
    opened.callback(subject.runner.close)
    return subject


def _share(progress: Progress, index: int, of: int) -> Progress:
    """The progress of one of ``of`` equal parts, in that of the whole."""
    return lambda done, total: progress(index * total + done, of * total)


def _machine() -> dict[str, Any]:
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return {
        "processor": processor(),
        "load": round(os.getloadavg()[0], 1),
        "gpus": [asdict(gpu) for gpu in devices()],
        "python": platform.python_version(),
        **versions,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
