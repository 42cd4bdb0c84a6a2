"""The requests that wait: a queue for each priority, and which of them would run together next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from deploy.runtime.base import Array
from deploy.serving.execution import Feeds
from deploy.serving.record import Record

Outputs = dict[str, Array]


@dataclass(eq=False)
class Request:
    """One request of one or more rows; ``shapes`` are its inputs' without the batch, ``level`` 0 goes first."""

    feeds: Feeds
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    level: int
    arrived: float
    answer: asyncio.Future[Outputs]
    record: Record | None = None
    timer: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Queues:
    """Requests in the order in which they run: by level, then as they came."""

    def __init__(self, levels: int) -> None:
        self._queues: list[deque[Request]] = [deque() for _ in range(levels)]

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._queues)

    def add(self, request: Request) -> None:
        self._queues[request.level].append(request)

    def remove(self, request: Request) -> bool:
        """Take a request out; whether it was still here."""
        queue = self._queues[request.level]
        if request not in queue:
            return False
        queue.remove(request)
        return True

    def candidate(self, max_batch: int | None) -> tuple[list[Request], bool]:
        """The requests that would run next, and whether no other could join them.

        Args:
            max_batch: their rows at most, their shapes being equal; None where each request runs alone.
        """
        if max_batch is None:
            return [next(iter(self))], True
        batch: list[Request] = []
        rows = 0
        for request in self:
            if batch and (rows + request.rows > max_batch or request.shapes != batch[0].shapes):
                return batch, True
            batch.append(request)
            rows += request.rows
        return batch, rows >= max_batch
