"""Dynamic batching: requests that wait together run together, as Triton's dynamic batcher does it.

Everything here runs on one event loop; only the network runs in threads, one for each instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from deploy.errors import InputError
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import fixed_batch, rows_of
from deploy.serving.errors import QueueFull, TimedOut, Unavailable, failure_reason
from deploy.serving.execution import Feeds, batchable, check, execute, inputs_of, zeros
from deploy.serving.record import Record
from deploy.serving.statistics import Statistics, Times

_LOG = logging.getLogger("deploy.serving")
Outputs = dict[str, Array]


@dataclass(frozen=True)
class BatchSettings:
    """How requests are batched.

    Attributes:
        max_batch: rows in one run.
        max_delay: seconds the oldest request waits for others while an instance is free.
        max_queue: requests that may wait, images that are decoded for it among them.
        priorities: levels; 1 goes first. A request that names none, or 0, has the middle one.
    """

    max_batch: int = 8
    max_delay: float = 0.0
    max_queue: int = 256
    priorities: int = 1

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_queue, self.priorities) < 1 or not 0 <= self.max_delay < float("inf"):
            raise InputError("batch, queue and priorities are counts, the delay is not negative", got=self)


@dataclass(eq=False)
class _Request:
    feeds: Feeds
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    level: int
    arrived: float
    answer: asyncio.Future[Outputs]
    record: Record | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Instance:
    runner: Runner
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="instance"))


class Batcher:
    """One model's queue and instances. :meth:`start` before the first request; :meth:`drain` at the end.

    A request is never split and keeps its place behind those of its priority. The batch is sent when it is full, when
    the next request does not fit in it (too many rows, other shapes), or when its oldest request has waited
    ``max_delay``. So what queued while all instances were busy runs together at any delay.
    """

    def __init__(self, runners: Sequence[Runner], settings: BatchSettings | None = None) -> None:
        """``runners``: one for each instance, all of the same model; closed by :meth:`drain`."""
        self.runner, self.settings = runners[0], settings or BatchSettings()
        self.batches = batchable(self.runner)
        self.max_batch = _most_rows(self.runner, self.settings.max_batch) if self.batches else 1
        self.statistics, self.ready = Statistics(), False
        self._instances = [_Instance(runner) for runner in runners]
        self._idle: deque[_Instance] = deque()
        self._queues: list[deque[_Request]] = [deque() for _ in range(self.settings.priorities)]
        self.inputs = inputs_of(self.runner)
        self._unanswered: set[_Request] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._prepared = 0  # requests that have a place and do not wait yet
        self._stopping, self._empty = False, asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        return sum(map(len, self._queues))

    @property
    def instances(self) -> int:
        return len(self._instances)

    async def start(self) -> None:
        """Run every instance once, on one row and on a full batch, then accept requests."""
        await asyncio.gather(*(self._warm_up(instance) for instance in self._instances))
        self._idle.extend(self._instances)
        self.ready = not self._stopping

    async def _warm_up(self, instance: _Instance) -> None:
        for rows in sorted({1, self.max_batch}):
            feeds = zeros(instance.runner, rows)
            if feeds is not None:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(instance.thread, execute, instance.runner, [feeds], [rows])

    async def infer(
        self, feeds: Feeds, *, priority: int = 0, timeout: float | None = None, record: Record | None = None
    ) -> Outputs:
        """The outputs of one request of one or more rows.

        Cancelling the caller drops a request that has not started.

        Args:
            feeds: the model's inputs.
            priority: 1 to ``priorities``, 1 first; any other is the middle, as Triton has it.
            timeout: seconds that it may wait for its start.
            record: is told of the rows, the queue and the run.

        Raises:
            InputError: the feeds do not fit the model or have more rows than ``max_batch``.
            QueueFull: too many wait.
            TimedOut: it has not started within ``timeout``; raised at that moment.
            Unavailable: not started, or draining.
        """
        arrived = asyncio.get_running_loop().time()
        with self._counting_failure(arrived, record):
            request = self._admit(feeds, priority, arrived)
            if record is not None:
                request.record, record.rows = record, request.rows
            self._unanswered.add(request)
            try:
                self._enqueue(request, timeout)
                return await request.answer
            finally:
                self._unanswered.discard(request)
                self._leave(request)

    @contextlib.contextmanager
    def _counting_failure(self, arrived: float, record: Record | None) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if record is not None:
                record.counted = True
            self.statistics.failed(asyncio.get_running_loop().time() - arrived, failure_reason(error))
            raise

    def _admit(self, feeds: Feeds, priority: int, arrived: float) -> _Request:
        if not self.ready:
            raise Unavailable("the model is not ready")
        check(self.inputs, feeds)
        rows = self._rows(feeds)
        self._check_room()
        shapes = tuple(feeds[spec.name].shape[1:] for spec in self.runner.inputs)
        levels = self.settings.priorities
        level = (priority if 1 <= priority <= levels else (levels + 1) // 2) - 1
        return _Request(feeds, rows, shapes, level, arrived, asyncio.get_running_loop().create_future())

    def _check_room(self) -> None:
        if self.waiting + self._prepared >= self.settings.max_queue:
            raise QueueFull

    @contextlib.contextmanager
    def place(self, record: Record | None = None) -> Iterator[None]:
        """A place in the queue while a request is made ready for :meth:`infer`; raises :class:`QueueFull`."""
        with self._counting_failure(asyncio.get_running_loop().time(), record):
            self._check_room()
        self._prepared += 1
        try:
            yield
        finally:
            self._prepared -= 1

    def _rows(self, feeds: Feeds) -> int:
        if not self.batches:
            return rows_of(self.runner.inputs, feeds)
        counts = {len(array) for array in feeds.values()}
        if len(counts) != 1 or not 1 <= max(counts) <= self.max_batch:
            raise InputError("the request's batch does not fit", got=sorted(counts), expected=f"1 to {self.max_batch}")
        return counts.pop()

    def _enqueue(self, request: _Request, timeout: float | None) -> None:
        self._queues[request.level].append(request)
        self._empty.clear()
        if timeout is not None:
            loop = asyncio.get_running_loop()
            request.timer = loop.call_at(request.arrived + timeout, self._expire, request)
        self._dispatch()

    def _expire(self, request: _Request) -> None:
        if not request.answer.done():
            request.answer.set_exception(TimedOut())
        self._leave(request)

    def _leave(self, request: _Request) -> None:
        """Take a request out of its queue where it is still there; what stood behind it may now go."""
        if request.timer is not None:
            request.timer.cancel()
        queue = self._queues[request.level]
        if request in queue:
            queue.remove(request)
            self._dispatch()

    def _dispatch(self) -> None:
        """Send every batch whose time has come; a timer calls again for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self.waiting:
            batch, closed = self._candidate()
            due = min(request.arrived for request in batch) + self.settings.max_delay
            loop = asyncio.get_running_loop()
            if not closed and not self._stopping and loop.time() < due:
                self._timer = loop.call_at(due, self._dispatch)
                break
            self._send(batch)
        if not self.waiting and not self._runs:
            self._empty.set()

    def _candidate(self) -> tuple[list[_Request], bool]:
        """The requests that would run next, and whether no other could join them."""
        batch: list[_Request] = []
        rows = 0
        for request in (request for queue in self._queues for request in queue):
            if batch and (rows + request.rows > self.max_batch or request.shapes != batch[0].shapes):
                return batch, True
            batch.append(request)
            rows += request.rows
            if not self.batches:
                break
        return batch, not self.batches or rows >= self.max_batch

    def _send(self, batch: list[_Request]) -> None:
        for request in batch:
            self._queues[request.level].remove(request)
            if request.timer is not None:
                request.timer.cancel()
        run = asyncio.create_task(self._run(self._idle.popleft(), batch))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, instance: _Instance, batch: list[_Request]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self._execute(instance, batch)
        self.statistics.busy += loop.time() - started
        self._runs.discard(asyncio.current_task())
        self._idle.append(instance)
        self._dispatch()

    async def _execute(self, instance: _Instance, batch: list[_Request]) -> None:
        """One run. Where it fails, each request runs alone, once: who asked for nothing wrong gets its answer."""
        loop = asyncio.get_running_loop()
        started, rows = loop.time(), [request.rows for request in batch]
        work = loop.run_in_executor(instance.thread, execute, instance.runner, [r.feeds for r in batch], rows)
        try:
            answers, times = await work
        except Exception as error:  # noqa: BLE001 - whatever a backend raises belongs to those who asked
            if len(batch) == 1:
                _fail(batch, error)
                return
            _LOG.warning("a run of %d requests failed, each is run alone: %r", len(batch), error)
            for request in batch:
                if not request.answer.done():
                    await self._execute(instance, [request])
        else:
            self._answer(batch, answers, times, started)

    def _answer(self, batch: list[_Request], answers: list[Outputs], times: Times, started: float) -> None:
        self.statistics.executed(sum(request.rows for request in batch), times)
        now = asyncio.get_running_loop().time()
        for request, outputs in zip(batch, answers):
            if not request.answer.done():
                if request.record is not None:
                    request.record.ran(started - request.arrived, times)
                request.answer.set_result(outputs)
                self.statistics.succeeded(now - request.arrived, started - request.arrived, times)

    async def drain(self, limit: float) -> bool:
        """Refuse new requests, answer the accepted ones within ``limit`` seconds, close the runners.

        Returns:
            Whether all were answered; the others got :class:`Unavailable`, and a run that hangs keeps its runner.
        """
        self.ready, self._stopping = False, True
        self._dispatch()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._empty.wait(), limit)
        answered = self._empty.is_set()
        _fail(list(self._unanswered), Unavailable("the server stops"))
        closed = [instance.thread.submit(instance.runner.close) for instance in self._instances]  # behind its run
        for instance in self._instances:
            instance.thread.shutdown(wait=False)
        if answered:  # off the loop: other models go on meanwhile
            await asyncio.gather(*map(asyncio.wrap_future, closed))
        return answered


def _fail(batch: Sequence[_Request], error: Exception) -> None:
    for request in batch:
        if not request.answer.done():
            request.answer.set_exception(error)


def _most_rows(runner: Runner, asked: int) -> int:
    """The rows of one run: a fixed batch is that size (smaller ones are padded), an engine takes its profile's."""
    fixed = fixed_batch(runner)
    if fixed is not None:
        return fixed
    engine = runner.manifest.engine if runner.manifest else None
    return min(asked, engine.batch.max) if engine else asked
