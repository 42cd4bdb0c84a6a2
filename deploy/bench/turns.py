"""Measuring several runners in turns: clocks, temperature and what else runs here change for all of them alike."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from deploy.bench.counters import GpuCounters, GpuUse
from deploy.bench.load import Load, Query
from deploy.runtime.timing import InferenceTime

Progress = Callable[[int, int], None]

_TURNS = 10
_FEWEST_TURNS = 2
_QUERIES_IN_A_TURN = 3
# Of a turn, for queries that are taken apart where the runner can do that.
_APART = 0.2


@dataclass(frozen=True)
class Settings:
    """How long and how hard to measure, by trtexec's names and defaults.

    Attributes:
        duration_s: seconds of measuring, for each runner.
        warm_up_ms: milliseconds of load before that, for each runner.
        iterations: queries at least, for each runner.
        concurrency: clients that query at the same time.
    """

    duration_s: float = 3.0
    warm_up_ms: float = 200.0
    iterations: int = 10
    concurrency: int = 1


@dataclass
class Series:
    """One runner at one batch.

    Attributes:
        counters: of the GPU that it runs on.
        turns: the queries of each turn.
        parts: of further queries, which were taken apart.
        use: what the GPU used in the turns.
    """

    load: Load
    counters: GpuCounters | None = None
    turns: list[list[Query]] = field(default_factory=list)
    parts: list[InferenceTime] = field(default_factory=list)
    use: GpuUse = field(default_factory=GpuUse)

    def take_turn(self, seconds: float, least: int) -> None:
        """Measure for a while, after one query that fills the caches again."""
        apart = _APART * seconds if self.load.tells_parts else 0.0
        self.load.run(0)
        with _no_collection(), self.use.during(self.counters):
            self.turns.append(self.load.run(seconds - apart, least))
        if apart:
            self._take_apart(apart)

    def _take_apart(self, seconds: float) -> None:
        self.load.run(0, apart=True)
        with _no_collection():
            queries = self.load.run(seconds, apart=True)
        self.parts += [query.parts for query in queries if query.parts is not None]


def measure(series: Sequence[Series], settings: Settings, progress: Progress) -> None:
    """Warm all up, then give each its turns: in one order, and back in the other."""
    slowest = max(_warm_up(each.load, settings.warm_up_ms / 1e3) for each in series)
    turns = _turns(settings.duration_s, slowest)
    least = math.ceil(settings.iterations / turns / settings.concurrency)
    for turn in range(turns):
        for index, each in enumerate(series if turn % 2 == 0 else reversed(series)):
            each.take_turn(settings.duration_s / turns, least)
            progress(turn * len(series) + index + 1, turns * len(series))


def _warm_up(load: Load, seconds: float) -> float:
    """Seconds that the fastest query took."""
    return min(query.end - query.start for query in load.run(seconds))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector waits, as in :mod:`timeit`: its pauses are those of our lists of times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _turns(duration_s: float, query_s: float) -> int:
    """Enough for noise to show, few enough for each to hold some queries."""
    return max(_FEWEST_TURNS, min(_TURNS, int(duration_s / (_QUERIES_IN_A_TURN * query_s))))
