"""Dynamic batching: requests that wait together run together, as Triton's dynamic batcher does it.

Everything here runs on one event loop; only the network runs in threads, one for each instance.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from deploy.errors import InputError
from deploy.runtime.base import Runner
from deploy.runtime.rows import fixed_batch, rows_of
from deploy.serving.errors import QueueFull, TimedOut, Unavailable, failure_reason
from deploy.serving.execution import Feeds, batchable, check, execute, inputs_of, zeros
from deploy.serving.queues import Outputs, Queues, Request
from deploy.serving.settings import BatchSettings
from deploy.serving.statistics import Statistics, Times


@dataclass(eq=False)
class _Instance:
    runner: Runner
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="instance"))


@dataclass(eq=False)
class _Run:
    """A batch that was sent, and what answers it."""

    batch: list[Request]
    answer: Callable[[], None] | None = None  # not before it has run


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
        self._queues = Queues(self.settings.priorities)
        self.inputs = inputs_of(self.runner)
        self._unanswered: set[Request] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._unreleased: deque[_Run] = deque()  # with preserve_ordering: sent, oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._stopping, self._empty = False, asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        return len(self._queues)

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

    async def infer(self, feeds: Feeds, *, priority: int = 0, timeout: float | None = None) -> Outputs:
        """The outputs of one request of one or more rows.

        Cancelling the caller drops a request that has not started.

        Args:
            feeds: the model's inputs.
            priority: 1 to ``priorities``, 1 first; 0 is the default one.
            timeout: seconds that it may wait for its start; None is the default.

        Raises:
            InputError: the feeds do not fit the model or have more rows than ``max_batch``, or no such priority.
            QueueFull: too many wait.
            TimedOut: it has not started within ``timeout``; raised at that moment.
            Unavailable: not started, or draining.
        """
        arrived = asyncio.get_running_loop().time()
        with self._counting_failure(arrived):
            request = self._admit(feeds, priority, arrived)
            self._unanswered.add(request)
            try:
                self._enqueue(request, timeout)
                return await request.answer
            finally:
                self._unanswered.discard(request)
                self._leave(request)

    @contextlib.contextmanager
    def _counting_failure(self, arrived: float) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.statistics.failed(asyncio.get_running_loop().time() - arrived, failure_reason(error))
            raise

    def _admit(self, feeds: Feeds, priority: int, arrived: float) -> Request:
        if not self.ready:
            raise Unavailable("the model is not ready")
        check(self.inputs, feeds)
        rows = self._rows(feeds)
        if not 0 <= priority <= self.settings.priorities:
            raise InputError("no such priority", got=priority, expected=f"0 to {self.settings.priorities}")
        if self.waiting >= self.settings.max_queue:
            raise QueueFull
        shapes = tuple(feeds[spec.name].shape[1:] for spec in self.runner.inputs)
        level = (priority or self.settings.middle) - 1
        return Request(feeds, rows, shapes, level, arrived, asyncio.get_running_loop().create_future())

    def _rows(self, feeds: Feeds) -> int:
        if not self.batches:
            return rows_of(self.runner.inputs, feeds)
        counts = {len(array) for array in feeds.values()}
        if len(counts) != 1 or not 1 <= max(counts) <= self.max_batch:
            raise InputError("the request's batch does not fit", got=sorted(counts), expected=f"1 to {self.max_batch}")
        return counts.pop()

    def _enqueue(self, request: Request, timeout: float | None) -> None:
        self._queues.add(request)
        self._empty.clear()
        timeout = self.settings.timeout if timeout is None else timeout
        if timeout is not None:
            loop = asyncio.get_running_loop()
            request.timer = loop.call_at(request.arrived + timeout, self._expire, request)
        self._dispatch()

    def _expire(self, request: Request) -> None:
        if not request.answer.done():
            request.answer.set_exception(TimedOut())
        self._leave(request)

    def _leave(self, request: Request) -> None:
        """Take a request out of its queue where it is still there; what stood behind it may now go."""
        if request.timer is not None:
            request.timer.cancel()
        if self._queues.remove(request):
            self._dispatch()

    def _dispatch(self) -> None:
        """Send every batch whose time has come; a timer calls again for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self.waiting:
            batch, closed = self._queues.candidate(self.max_batch if self.batches else None)
            due = min(request.arrived for request in batch) + self.settings.max_delay
            loop = asyncio.get_running_loop()
            if not closed and not self._stopping and loop.time() < due:
                self._timer = loop.call_at(due, self._dispatch)
                break
            self._send(batch)
        if not self.waiting and not self._runs:
            self._empty.set()

    def _send(self, batch: list[Request]) -> None:
        for request in batch:
            self._queues.remove(request)
            if request.timer is not None:
                request.timer.cancel()
        run = _Run(batch)
        if self.settings.preserve_ordering:
            self._unreleased.append(run)
        task = asyncio.create_task(self._run(self._idle.popleft(), run))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    async def _run(self, instance: _Instance, run: _Run) -> None:
        loop = asyncio.get_running_loop()
        started, rows = loop.time(), [request.rows for request in run.batch]
        work = loop.run_in_executor(instance.thread, execute, instance.runner, [r.feeds for r in run.batch], rows)
        try:
            answers, times = await work
        except Exception as error:  # noqa: BLE001 - whatever a backend raises belongs to those who asked
            run.answer = partial(_fail, run.batch, error)
        else:
            self.statistics.executed(sum(rows), times)
            run.answer = partial(self._answer, run.batch, answers, times, started)
        if self.settings.preserve_ordering:
            self._release()
        else:
            run.answer()
        self._runs.discard(asyncio.current_task())
        self._idle.append(instance)
        self._dispatch()

    def _release(self) -> None:
        """Answer what has run, behind all that was sent before it."""
        while self._unreleased and (answer := self._unreleased[0].answer) is not None:
            self._unreleased.popleft()
            answer()

    def _answer(self, batch: list[Request], answers: list[Outputs], times: Times, started: float) -> None:
        now = asyncio.get_running_loop().time()
        for request, outputs in zip(batch, answers):
            if not request.answer.done():
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
        for instance in self._instances:
            instance.thread.submit(instance.runner.close)  # behind the run that it may be in
            await asyncio.to_thread(instance.thread.shutdown, wait=answered)  # other models go on meanwhile
        return answered


def _fail(batch: Sequence[Request], error: Exception) -> None:
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
