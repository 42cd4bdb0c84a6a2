"""Closed-loop load: each client sends its next query when it has the answer to the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from time import perf_counter

from deploy.runtime.base import Array, Runner
from deploy.runtime.timing import InferenceTime, timer_of

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Query:
    """When the host sent a query and had its answer, in seconds, and its parts if it was taken apart."""

    start: float
    end: float
    parts: InferenceTime | None = None

    @property
    def host_ms(self) -> float:
        return 1e3 * (self.end - self.start)


class Load:
    """``clients`` threads that query one runner with ``feeds`` in turn. One client is the calling thread itself.

    The threads live until :meth:`close`: runners keep state for each thread they meet (ONNX Runtime's CUDA provider has
    handles of cuDNN and cuBLAS), which has to be there before queries are timed.
    """

    def __init__(self, runner: Runner, feeds: Sequence[Feeds], clients: int) -> None:
        self._runner, self._feeds, self._clients = runner, feeds, clients
        self._timer = timer_of(runner)
        self._done = threading.Event()
        self._together = threading.Barrier(clients)  # so that no thread stands in for another
        self._pool = ThreadPoolExecutor(clients, thread_name_prefix="client")  # starts none before they are needed

    @property
    def tells_parts(self) -> bool:
        """Whether the runner can take its queries apart."""
        return self._timer is not None

    def run(self, seconds: float, least: int = 1, *, apart: bool = False) -> list[Query]:
        """Query for ``seconds``, each client at least ``least`` times; queries under way at the end are finished.

        What the runner raises ends all clients, and the load with them.

        Args:
            seconds, least: how long.
            apart: take the queries apart, which costs the host time; only where :attr:`tells_parts`.
        """
        query = self._timed if apart else self._plain
        if self._clients == 1:
            return self._client(0, seconds, least, query)
        numbers = range(self._clients)
        futures = [self._pool.submit(self._client, number, seconds, least, query) for number in numbers]
        try:
            return [query for future in futures for query in future.result()]
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _client(self, number: int, seconds: float, least: int, query: Callable[[Feeds], Query]) -> list[Query]:
        self._together.wait()
        queries: list[Query] = []
        until = perf_counter() + seconds
        for index in count(number):
            if self._done.is_set() or (len(queries) >= least and perf_counter() >= until):
                break
            try:
                queries.append(query(self._feeds[index % len(self._feeds)]))
            except BaseException:
                self._stop()
                raise
        return queries

    def _stop(self) -> None:
        self._done.set()
        self._together.abort()

    def _plain(self, feeds: Feeds) -> Query:
        start = perf_counter()
        self._runner.infer(feeds)
        return Query(start, perf_counter())

    def _timed(self, feeds: Feeds) -> Query:
        assert self._timer is not None
        start = perf_counter()
        _, parts = self._timer.infer_timed(feeds)
        return Query(start, perf_counter(), parts)


def walltime(queries: Sequence[Query]) -> float:
    """Seconds from the first query's start to the last one's end: trtexec's Total Host Walltime."""
    return max(query.end for query in queries) - min(query.start for query in queries)
