"""What a model has done, counted as Triton counts it (protocol extension "statistics")."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.serving.errors import FAILURE_REASONS
from deploy.serving.histogram import Histogram


@dataclass
class Duration:
    """How often, and how long in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(frozen=True)
class Times:
    """Seconds of one execution: joining the requests, the network, splitting its outputs."""

    compute_input: float
    compute_infer: float
    compute_output: float


STAGES = ("compute_input", "compute_infer", "compute_output")


def _durations(*names: str) -> dict[str, Duration]:
    return {name: Duration() for name in names}


@dataclass
class Statistics:
    """Counts of one model since it was loaded.

    A request counts once, in ``requests`` or by its reason in ``failures``, whatever its rows; its stages are those of
    the batch that it was in. ``queued`` counts the requests of ``requests["queue"]`` by their seconds. ``inferences``
    counts rows, ``executions`` runs of the network. ``busy`` are the seconds that instances were taken by runs.
    """

    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0
    busy: float = 0.0
    requests: dict[str, Duration] = field(default_factory=lambda: _durations("success", "queue", *STAGES))
    failures: dict[str, Duration] = field(default_factory=lambda: _durations(*FAILURE_REASONS))
    queued: Histogram = field(default_factory=Histogram)
    batches: dict[int, dict[str, Duration]] = field(default_factory=dict)

    def executed(self, rows: int, times: Times) -> None:
        """One run of the network that succeeded."""
        self.inferences += rows
        self.executions += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        for stage, duration in self.batches.setdefault(rows, _durations(*STAGES)).items():
            duration.add(getattr(times, stage))

    def succeeded(self, total: float, queued: float, times: Times) -> None:
        """One request answered; seconds from its arrival to its answer, and to its start."""
        self.requests["success"].add(total)
        self.requests["queue"].add(queued)
        self.queued.add(queued)
        for stage in STAGES:
            self.requests[stage].add(getattr(times, stage))

    def failed(self, total: float, reason: str) -> None:
        """One request refused, timed out or failed, after ``total`` seconds; ``reason`` is one of FAILURE_REASONS."""
        self.failures[reason].add(total)

    @property
    def fail(self) -> Duration:
        """All failures."""
        failures = self.failures.values()
        return Duration(sum(one.count for one in failures), sum(one.ns for one in failures))

    def as_dict(self) -> dict[str, object]:
        """The fields of Triton's ``model_stats`` but for the model's name and version."""
        none = Duration().as_dict()
        stats = {name: duration.as_dict() for name, duration in {**self.requests, "fail": self.fail}.items()}
        return {
            "last_inference": self.last_inference_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {**stats, "cache_hit": none, "cache_miss": none},
            "batch_stats": [_batch(rows, self.batches[rows]) for rows in sorted(self.batches)],
        }


def _batch(rows: int, stages: dict[str, Duration]) -> dict[str, object]:
    return {"batch_size": rows, **{stage: duration.as_dict() for stage, duration in stages.items()}}


def spans(marks: Sequence[float]) -> Times:
    """The times between four readings of a clock, in seconds."""
    start, joined, inferred, split = marks
    return Times(joined - start, inferred - joined, split - inferred)
