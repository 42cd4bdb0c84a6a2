"""What ``bench`` measures: an opened file, the batches that it takes, and what to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.bench.counters import GpuCounters
from deploy.bench.load import Feeds
from deploy.data.calibration import open_calibration_data
from deploy.data.loading import tell_once
from deploy.errors import InputError, MachineError
from deploy.images.default import default_preprocessing
from deploy.parity.inputs import synthetic_batches
from deploy.runtime.base import Runner
from deploy.runtime.open import open_runner
from deploy.runtime.rows import fixed_batch
from deploy.runtime.timing import HasProfile, HoldsDeviceMemory, timer_of
from deploy.specs import Precision, Preprocessing, ShapeProfile, batch_of

Warn = Callable[[str], None]

# Of real data, fed in turn: enough to see what depends on the data.
_MOST_IMAGES = 64


@dataclass
class BenchSubject:
    """A file that runs here.

    Attributes:
        precision: None for an engine that does not say.
        limits: integer input → the first number too large for it.
        grown: bytes by which the GPU's memory in use grew when the file was opened and run first; None where NVML does
            not tell.
    """

    path: Path
    runner: Runner
    precision: Precision | None
    limits: Mapping[str, int] = field(default_factory=dict)
    grown: int | None = None

    @property
    def on_gpu(self) -> bool:
        return getattr(self.runner, "device", "cuda") == "cuda"  # only ONNX Runtime's runner has a choice

    @property
    def profile(self) -> ShapeProfile | None:
        """The batches that an engine was built for, where that is known."""
        if isinstance(self.runner, HasProfile):
            return self.runner.profile
        manifest = self.runner.manifest
        return manifest.engine.batch if manifest and manifest.engine else None

    def check_batch(self, batch: int) -> None:
        """Raise :class:`InputError` unless the file takes ``batch`` images as one query."""
        fixed, profile = fixed_batch(self.runner), self.profile
        if batch_of(self.runner.inputs) is None and batch != 1:
            raise InputError(f"{self.path} has no batch axis", got=f"--batch {batch}", expected="--batch 1")
        if fixed is not None and batch != fixed:
            raise InputError(f"{self.path} takes one batch size alone", got=batch, expected=fixed)
        if fixed is None and profile is not None and not profile.min <= batch <= profile.max:
            raise InputError(
                f"{self.path} was not built for this batch",
                got=batch,
                expected=f"{profile.min} to {profile.max}",
                fix="Build it again with --batch MIN:OPT:MAX, or give another --batch.",
            )

    def feeds(self, batch: int, data: Path | None, warn: Warn) -> Sequence[Feeds]:
        """Batches to feed in turn.

        Raises:
            InputError: the data do not fit or do not fill a batch, or no input can be made up.
        """
        inputs, preprocessing = self.runner.inputs, self._preprocessing()
        if data is None:
            return list(synthetic_batches(inputs, preprocessing, (batch,), below=self.limits))
        limit = max(batch, _MOST_IMAGES)
        source = open_calibration_data(data, inputs, preprocessing, limit, on_error=tell_once(warn))
        if batch_of(inputs) is not None and len(source) < batch:
            raise InputError(f"{data} does not fill a batch", got=f"{len(source)} images", expected=f"at least {batch}")
        return list(source.batches(batch))[: len(source) // batch]  # without the last one, if it is smaller

    def run_first(self, feeds: Feeds, counters: GpuCounters | None) -> None:
        """The query in which a runner takes what memory it still needs."""
        before = memory_used(counters)
        self.runner.infer(feeds)
        self.grown = _sum(self.grown, _difference(before, memory_used(counters)))

    @property
    def gpu_memory(self) -> tuple[int, str] | None:
        """Bytes, and who says so; None on a CPU, and where nobody knows."""
        if isinstance(self.runner, HoldsDeviceMemory):
            return self.runner.device_memory(), "the runner"
        return (self.grown, "NVML") if self.on_gpu and self.grown is not None else None

    def to_dict(self) -> dict[str, Any]:
        timer, memory = timer_of(self.runner), self.gpu_memory
        return {
            "file": str(self.path),
            "precision": str(self.precision) if self.precision else None,
            "backend": self.runner.backend,
            "execution": self.runner.execution,
            "timed_by": timer.timed_by if timer else None,
            "gpu_memory_mb": memory[0] / 1e6 if memory else None,
            "gpu_memory_from": memory[1] if memory else None,
        }

    def _preprocessing(self) -> Preprocessing | None:
        manifest = self.runner.manifest
        if manifest is not None and manifest.preprocessing is not None:
            return manifest.preprocessing
        try:
            return default_preprocessing(self.runner.inputs)
        except InputError:
            return None


def open_bench_subject(
    path: Path, device: str, threads: int | None, clients: int, counters: GpuCounters | None, warn: Warn
) -> BenchSubject:
    """Open a file to be timed by ``clients`` at once.

    An FP16 or INT8 graph on a CPU is its twin, whose time foretells nothing: such figures get copied without what is
    said beside them. So the twin is timed only where the CPU was asked for by name, and warned of.

    Raises:
        InputError: no such file, or one that cannot be read.
        MachineError: the file needs a GPU, which is not here.
    """
    before = memory_used(counters)
    runner = open_runner(path, device=device, threads=threads, requests=max(2, clients), eager=True)
    if runner.execution.startswith("simulated"):
        _check_simulated(path, runner, device, warn)
    grown = _difference(before, memory_used(counters))
    if path.suffix != ".onnx":
        precision = runner.manifest.precision if runner.manifest else None
        return BenchSubject(path, runner, precision, grown=grown)
    # Imported here: a machine that runs engines alone need not have what reads graphs.
    from deploy.graph.files import load
    from deploy.graph.indices import index_limits
    from deploy.graph.twin import precision_of

    graph = load(path)
    return BenchSubject(path, runner, precision_of(graph), index_limits(graph), grown)


def memory_used(counters: GpuCounters | None) -> int | None:
    """Bytes of GPU memory in use by all processes."""
    return counters.memory_used() if counters else None


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _check_simulated(path: Path, runner: Runner, device: str, warn: Warn) -> None:
    said = f"{path} is {runner.execution}: its time says nothing of the real one's on a GPU"
    if device == "cpu":
        warn(said)
        return
    runner.close()
    raise MachineError(
        f"{path} would be {runner.execution}, whose time says nothing of the real one's",
        got="no GPU",
        fix="Measure on a machine with a GPU, or the simulation itself with --device cpu.",
    )


def batches_for(subjects: Sequence[BenchSubject], asked: Sequence[int] | None) -> tuple[int, ...]:
    """The batch sizes to measure: those ``asked`` for, else the fixed one of the files, else the smallest they take.

    Raises:
        InputError: a file does not take one of them.
    """
    batches = tuple(dict.fromkeys(asked)) if asked else (_own_batch(subjects),)
    for batch in batches:
        for subject in subjects:
            subject.check_batch(batch)
    return batches


def _own_batch(subjects: Sequence[BenchSubject]) -> int:
    fixed = {str(s.path): size for s in subjects if (size := fixed_batch(s.runner)) is not None}
    if len(set(fixed.values())) > 1:
        raise InputError("the files have different fixed batch sizes", got=fixed, fix="Measure them one by one.")
    smallest = [s.profile.min for s in subjects if s.profile]
    return next(iter(fixed.values()), max(smallest, default=1))
