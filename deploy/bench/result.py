"""What was measured of one artefact at one batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.bench.figures import Figures, Ratio, curve, drift_percent
from deploy.bench.load import walltime
from deploy.bench.turns import Series
from deploy.runtime.timing import InferenceTime

# Half against half of a run, in percent of time.
_MOST_DRIFT = 10.0
# trtexec's limits: sampleReporting.cpp, kENQUEUE_BOUND_REPORTING_THRESHOLD and kUNSTABLE_PERF_REPORTING_THRESHOLD.
_ENQUEUE_BOUND, _MOST_COMPUTE_CV = 0.8, 2.5
# trtexec's names of the parts → ours in JSON.
_KEYS = {
    "Latency": "latency_ms",
    "Enqueue Time": "enqueue_time_ms",
    "H2D Latency": "h2d_latency_ms",
    "GPU Compute Time": "gpu_compute_time_ms",
    "D2H Latency": "d2h_latency_ms",
}


@dataclass(frozen=True)
class Parts:
    """The parts of queries, from a runner that takes them apart (:class:`~deploy.runtime.timing.InferenceTime`)."""

    latency: Figures
    h2d: Figures
    compute: Figures
    d2h: Figures
    enqueue: Figures | None

    @staticmethod
    def of(times: Sequence[InferenceTime]) -> Parts:
        enqueued = [time.enqueue_ms for time in times if time.enqueue_ms is not None]
        return Parts(
            latency=_figures(times, lambda time: time.latency_ms),
            h2d=_figures(times, lambda time: time.h2d_ms),
            compute=_figures(times, lambda time: time.compute_ms),
            d2h=_figures(times, lambda time: time.d2h_ms),
            enqueue=Figures.of(enqueued) if enqueued else None,
        )

    def named(self) -> dict[str, Figures]:
        """By trtexec's names, in the order of its summary."""
        enqueue = {"Enqueue Time": self.enqueue} if self.enqueue else {}
        copies_and_kernels = {"H2D Latency": self.h2d, "GPU Compute Time": self.compute, "D2H Latency": self.d2h}
        return {"Latency": self.latency, **enqueue, **copies_and_kernels}


def _figures(times: Sequence[InferenceTime], part: Callable[[InferenceTime], float]) -> Figures:
    return Figures.of([part(time) for time in times])


@dataclass(frozen=True)
class Result:
    """One artefact at one batch size.

    Attributes:
        host_latency: of a query by the host's clock, from arrays to arrays.
        parts: of further queries, which the runner took apart; None where it cannot.
        walltime_s: Total Host Walltime, of all turns.
        ratio: of the host latency to that of the first artefact; None for the first itself.
        drift_percent: how much slower the second half of the turns was; None where it cannot be told.
        power_w, clock_mhz: of the GPU; None where NVML does not tell.
        curve: [percent of queries, host latency in ms at most].
    """

    name: str
    batch: int
    queries: int
    walltime_s: float
    host_latency: Figures
    parts: Parts | None
    ratio: Ratio | None
    drift_percent: float | None
    power_w: float | None
    clock_mhz: tuple[int, int] | None
    curve: list[list[float]]

    @staticmethod
    def of(name: str, batch: int, series: Series, first: Series) -> Result:
        queries = [query for turn in series.turns for query in turn]
        host = [[query.host_ms for query in turn] for turn in series.turns]
        times = [time for turn in host for time in turn]
        return Result(
            name=name,
            batch=batch,
            queries=len(queries),
            walltime_s=sum(walltime(turn) for turn in series.turns),
            host_latency=Figures.of(times),
            parts=Parts.of(series.parts) if series.parts else None,
            ratio=None if series is first else Ratio.of(host, [[q.host_ms for q in turn] for turn in first.turns]),
            drift_percent=drift_percent(host),
            power_w=series.use.power(),
            clock_mhz=series.use.clock_range(),
            curve=curve(times),
        )

    @property
    def throughput_qps(self) -> float:
        return self.queries / self.walltime_s

    @property
    def images_per_second(self) -> float:
        return self.throughput_qps * self.batch

    @property
    def energy_per_image_j(self) -> float | None:
        return None if self.power_w is None else self.power_w / self.images_per_second

    def warnings(self) -> list[str]:
        """What to know before believing the figures."""
        found = [*_noise(self), *(_bounds(self.parts) if self.parts else [])]
        return [f"{self.name}, batch {self.batch}: {text}" for text in found]

    def to_dict(self) -> dict[str, Any]:
        parts = self.parts.named() if self.parts else {}
        return {
            "batch": self.batch,
            "queries": self.queries,
            "total_host_walltime_s": self.walltime_s,
            "throughput_qps": self.throughput_qps,
            "images_per_second": self.images_per_second,
            "host_latency_ms": self.host_latency.to_dict(),
            **{key: parts[name].to_dict() if name in parts else None for name, key in _KEYS.items()},
            "ratio_to_first": self.ratio.to_dict() if self.ratio else None,
            "drift_percent": self.drift_percent,
            "power_w": self.power_w,
            "energy_per_image_j": self.energy_per_image_j,
            "clock_mhz": list(self.clock_mhz) if self.clock_mhz else None,
            "host_latency_curve": self.curve,
        }


def _noise(result: Result) -> list[str]:
    drift = result.drift_percent
    if drift is None or abs(drift) <= _MOST_DRIFT:
        return []
    word = "slower" if drift > 0 else "faster"
    return [
        f"the second half of the run was {abs(drift):.0f} % {word} than the first: the machine was not quiet, or its "
        "clocks were changing. Measure again with a longer --warm-up-ms and --duration-s"
    ]


def _bounds(parts: Parts) -> list[str]:
    """What trtexec warns of."""
    found = []
    compute = parts.compute.median
    if parts.enqueue and parts.enqueue.median > _ENQUEUE_BOUND * compute:
        found.append("throughput may be bound by Enqueue Time, not by GPU Compute Time")
    for name, copies in (("H2D Latency", parts.h2d), ("D2H Latency", parts.d2h)):
        if copies.median >= compute:
            found.append(f"throughput may be bound by copies: {name} is no less than GPU Compute Time")
    if parts.compute.cv_percent > _MOST_COMPUTE_CV:
        found.append(f"GPU Compute Time is unstable: its coefficient of variation is {parts.compute.cv_percent:.1f} %")
    return found
