"""What is told of every request: counted here for the metrics, then handed to the access log and the traces."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from deploy.serving.histogram import Histogram
from deploy.serving.record import STAGES, Record

_LOG = logging.getLogger("deploy.serving")
TRACE_CONTEXT = ("traceparent", "tracestate")  # headers and metadata; https://www.w3.org/TR/trace-context/


class Sink(Protocol):
    """Where finished records go. :meth:`put` is called on the event loop and must not wait."""

    traces: bool  # whether it wants the headers of W3C Trace Context

    def put(self, record: Record) -> None: ...

    def close(self) -> None: ...


class Telemetry:
    """Counts of finished requests, and who else wants to know of them.

    Attributes:
        requests: (protocol, status, model, version) → seconds, where status is HTTP's class (``2xx``) or gRPC's name.
        stages: (model, version) → stage → seconds, of requests that were answered.
        refused: (protocol, status) → requests for inference that failed before a model's batcher got them.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = sinks
        self.traces = any(sink.traces for sink in sinks)
        self.requests: dict[tuple[str, str, str, str], Histogram] = {}
        self.stages: dict[tuple[str, str], dict[str, Histogram]] = {}
        self.refused: Counter[tuple[str, str]] = Counter()

    def finished(self, record: Record, *, infers: bool) -> None:
        """The last byte of the reply is on its way. ``infers``: it is a request for inference."""
        status = record.status if isinstance(record.status, str) else f"{record.status // 100}xx"
        key = (record.protocol, status, record.model, record.version)
        histogram = self.requests.get(key)
        if histogram is None:
            histogram = self.requests.setdefault(key, Histogram())
        histogram.add(record.seconds)
        if status in ("2xx", "OK"):
            self._answered(record)
        elif infers and not record.counted:
            self.refused[record.protocol, str(record.status)] += 1
        for sink in self._sinks:
            sink.put(record)

    def _answered(self, record: Record) -> None:
        if not record.model:
            return
        key = (record.model, record.version)
        stages = self.stages.get(key)
        if stages is None:
            stages = self.stages.setdefault(key, {stage: Histogram() for stage in STAGES})
        for stage, seconds in record.laps:
            stages[stage].add(seconds)

    def close(self) -> None:
        """What was put is written out."""
        for sink in self._sinks:
            sink.close()


def traces_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables of OpenTelemetry name a collector and do not turn traces off."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    named = (environment.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))
    return any(named) and not off and environment.get("OTEL_TRACES_EXPORTER") != "none"


class Background:
    """A sink that writes in a thread of its own, the records of ``period`` seconds at a time.

    The event loop only appends to a queue: it waits for no disk, pipe or collector. A queue of ``MOST`` records is
    full; what comes then is dropped and counted.
    """

    MOST = 65_536

    def __init__(
        self,
        write: Callable[[list[Record], int], None],
        end: Callable[[], None],
        name: str,
        *,
        traces: bool = False,
        period: float = 0.1,
    ) -> None:
        """``write`` is given the records, and how many were dropped since it was last called; ``end`` comes last."""
        self.traces, self._write, self._end, self._period = traces, write, end, period
        self._queue: deque[Record] = deque()
        self._dropped, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        if len(self._queue) < self.MOST:
            self._queue.append(record)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what is there; a writer that hangs is left behind after five seconds."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        told, stopped = 0, False
        while not stopped:
            stopped = self._stop.wait(self._period)
            records = [self._queue.popleft() for _ in range(len(self._queue))]
            dropped = self._dropped - told
            told += dropped
            if records or dropped:
                self._guarded(self._write, records, dropped)
        self._guarded(self._end)

    def _guarded(self, step: Callable[..., None], *given: object) -> None:
        """Whatever a step raises is told, and the next records are tried: the requests themselves were answered."""
        try:
            step(*given)
        except Exception:  # noqa: BLE001 - see above
            _LOG.exception("%s cannot be written", self._thread.name)
