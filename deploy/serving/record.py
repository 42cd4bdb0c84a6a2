"""One request's way through the server: what metrics, access log and traces tell of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from deploy.serving.statistics import Times

# In the order of a request's life. "preprocess" is images decoded and prepared; "handover" what the event loop took to
# go on after the run; "postprocess" classes and boxes; "write" the reply put together, compressed and sent.
STAGES = (
    *("read", "parse", "preprocess", "queue", "compute_input", "compute_infer", "compute_output"),
    *("handover", "postprocess", "write"),
)
_MOST = 256  # characters of what a client names


@dataclass(slots=True, eq=False)
class Record:
    """One request, whichever protocol it came in. Its stages follow each other without gaps.

    Attributes:
        protocol: ``http`` or ``grpc``.
        method, path: the verb and the path, or gRPC's method and nothing.
        client: its address.
        parent: the headers of W3C Trace Context, where traces are kept.
        at, started: when it began, in nanoseconds since 1970 and on :func:`time.perf_counter`.
        laps: each stage that has ended, and its seconds.
        status: HTTP's status or the name of gRPC's.
        bytes_in, bytes_out: of the bodies as they were on the wire.
        model, version: of a loaded model that is asked; empty until it is.
        id: the request's own.
        rows: of its inputs; 0 where the batcher refused it, or never got it.
        counted: whether the model's statistics hold it as a failure.
    """

    protocol: str = ""
    method: str = ""
    path: str = ""
    client: str = ""
    parent: Mapping[str, str] = field(default_factory=dict)
    at: int = field(default_factory=time.time_ns)
    started: float = field(default_factory=time.perf_counter)
    laps: list[tuple[str, float]] = field(default_factory=list)
    status: int | str = 500
    bytes_in: int = 0
    bytes_out: int = 0
    model: str = ""
    version: str = ""
    id: str = ""
    rows: int = 0
    counted: bool = False
    _mark: float = field(init=False)

    def __post_init__(self) -> None:
        self._mark = self.started

    def end(self, stage: str) -> None:
        """``stage``, which began where the one before it ended, ends now."""
        now = time.perf_counter()
        self.laps.append((stage, now - self._mark))
        self._mark = now

    def ran(self, queued: float, times: Times) -> None:
        """The batch that the request was in has run; seconds. Its ``handover`` ends when the request goes on."""
        self.laps += (
            ("queue", queued),
            ("compute_input", times.compute_input),
            ("compute_infer", times.compute_infer),
            ("compute_output", times.compute_output),
        )
        self._mark += queued + times.compute_input + times.compute_infer + times.compute_output

    def about(self, model: str, version: str) -> None:
        """The loaded model that is asked."""
        self.model, self.version = model, version

    def named(self, identifier: str | None) -> None:
        """The request's id; a client may make it as long as a body."""
        self.id = (identifier or "")[:_MOST]

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last stage."""
        return self._mark - self.started

    def seconds_of(self, *stages: str) -> float:
        return sum(seconds for stage, seconds in self.laps if stage in stages)


CURRENT: ContextVar[Record | None] = ContextVar("record", default=None)


def current() -> Record:
    """The record of the request that the running task serves; one that nobody reads where there is none."""
    return CURRENT.get() or Record()
