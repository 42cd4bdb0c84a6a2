"""Dynamic batching: requests that wait together run together, as Triton's dynamic batcher does it.

Everything here runs on one event loop; only the network runs in threads: see :mod:`deploy.serving.instance`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from deploy.errors import InputError
from deploy.runtime.base import Runner
from deploy.runtime.rows import fixed_batch, rows_of
from deploy.serving.clock import now
from deploy.serving.errors import QueueFull, TimedOut, Unavailable, failure_reason
from deploy.serving.execution import Feeds, batchable, check, inputs_of, zeros
from deploy.serving.instance import Execution, Instance, Run
from deploy.serving.queues import Outputs, Queues, Request
from deploy.serving.record import Record
from deploy.serving.settings import BatchSettings
from deploy.serving.statistics import Statistics, Times


class Batcher:
    """One model's queue and instances. :meth:`start` before the first request; :meth:`drain` at the end.

    A request is never split and keeps its place behind those of its priority. The batch is sent when it is full, when
    the next request does not fit in it (too many rows, other shapes), or when its oldest request has waited
    ``max_delay``. So what queued while all instances were busy runs together at any delay. With one instance, a batch
    to which nothing can be added is sent ahead, behind the one that runs: it starts without waiting for the loop.
    """

    def __init__(self, runners: Sequence[Runner], settings: BatchSettings | None = None) -> None:
        """``runners``: one for each instance, all of the same model; closed by :meth:`drain`."""
        self.runner, self.settings = runners[0], settings or BatchSettings()
        self.batches = batchable(self.runner)
        self.max_batch = _most_rows(self.runner, self.settings.max_batch) if self.batches else 1
        self.inputs = inputs_of(self.runner)
        self.statistics, self.ready = Statistics(), False
        self._instances = [Instance(runner) for runner in runners]
        # A batch is sent ahead where neither a higher priority could overtake it nor another instance be free first.
        self._depth = 2 if self.settings.priorities == len(runners) == 1 else 1
        self._queues = Queues(self.settings.priorities)
        self._prepared = 0  # requests that have a place and do not wait yet
        self._unanswered: set[Request] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._unreleased: deque[Run] = deque()  # with preserve_ordering: sent, oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._stopping, self._empty = False, asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        sent = (run for instance in self._instances for run in instance.runs)
        return len(self._queues) + sum(len(run.batch) for run in sent if run.started is None)

    @property
    def instances(self) -> int:
        return len(self._instances)

    async def start(self) -> None:
        """Run every instance once, on one row and on a full batch, then accept requests."""
        await asyncio.gather(*(self._warm_up(instance) for instance in self._instances))
        self.ready = not self._stopping

    async def _warm_up(self, instance: Instance) -> None:
        for rows in sorted({1, self.max_batch}):
            feeds = zeros(instance.runner, rows)
            if feeds is not None:
                await instance.warm_up(feeds, rows)

    async def infer(
        self, feeds: Feeds, *, priority: int = 0, timeout: float | None = None, record: Record | None = None
    ) -> Outputs:
        """The outputs of one request of one or more rows.

        Cancelling the caller drops a request that has not started.

        Args:
            feeds: the model's inputs.
            priority: 1 to ``priorities``, 1 first; any other is the default one, as Triton has it.
            timeout: seconds that it may wait for its start; None is the default.
            record: is told of the rows, the queue and the run.

        Raises:
            InputError: the feeds do not fit the model or have more rows than ``max_batch``.
            QueueFull: too many wait.
            TimedOut: it has not started within ``timeout``; raised at that moment.
            Unavailable: not started, or draining.
        """
        arrived = now()
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
            self.statistics.failed(now() - arrived, failure_reason(error))
            raise

    def _admit(self, feeds: Feeds, priority: int, arrived: float) -> Request:
        if not self.ready:
            raise Unavailable("the model is not ready")
        check(self.inputs, feeds)
        rows = self._rows(feeds)
        self._check_room()
        shapes = tuple(feeds[spec.name].shape[1:] for spec in self.runner.inputs)
        level = (priority if 1 <= priority <= self.settings.priorities else self.settings.middle) - 1
        return Request(feeds, rows, shapes, level, arrived, asyncio.get_running_loop().create_future())

    def _check_room(self) -> None:
        if self.waiting + self._prepared >= self.settings.max_queue:
            raise QueueFull

    @contextlib.contextmanager
    def place(self, record: Record | None = None) -> Iterator[None]:
        """A place in the queue while a request is made ready for :meth:`infer`; raises :class:`QueueFull`."""
        with self._counting_failure(now(), record):
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
        request.stop_timer()
        if self._queues.remove(request):
            self._dispatch()

    def _dispatch(self) -> None:
        """Send every batch whose time has come; a timer calls again for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queues and len((instance := self._least_busy()).runs) < self._depth:
            batch, closed = self._queues.candidate(self.max_batch if self.batches else None)
            if not closed and not self._due(batch, instance):
                break
            self._send(instance, batch)
        if not self._queues and not self._runs:
            self._empty.set()

    def _least_busy(self) -> Instance:
        return min(self._instances, key=lambda instance: len(instance.runs))

    def _due(self, batch: Sequence[Request], instance: Instance) -> bool:
        """Whether a batch that others could still join is sent: not to a busy instance, and not before its delay."""
        if instance.runs:
            return False
        due = min(request.arrived for request in batch) + self.settings.max_delay
        if self._stopping or now() >= due:
            return True
        self._timer = asyncio.get_running_loop().call_at(due, self._dispatch)
        return False

    def _send(self, instance: Instance, batch: list[Request]) -> None:
        for request in batch:
            self._queues.remove(request)
        run = Run(batch)
        instance.runs.append(run)
        if len(instance.runs) == 1:
            run.begin()
        if self.settings.preserve_ordering:
            self._unreleased.append(run)
        task = asyncio.create_task(self._run(instance, run))
        self._runs.add(task)

    async def _run(self, instance: Instance, run: Run) -> None:
        executions = await instance.run(run.batch)
        instance.runs.remove(run)
        if instance.runs:
            instance.runs[0].begin()
        run.answer = partial(self._answer, executions, run)
        self._release(run)
        task = asyncio.current_task()
        assert task is not None  # _send made it
        self._runs.discard(task)
        self._dispatch()

    def _release(self, run: Run) -> None:
        """Answer ``run``; with ``preserve_ordering`` behind all that was sent before it."""
        if not self.settings.preserve_ordering:
            self._unreleased.append(run)
        while self._unreleased and (answer := self._unreleased[0].answer) is not None:
            self._unreleased.popleft()
            answer()

    def _answer(self, executions: Sequence[Execution], run: Run) -> None:
        started, ended = run.started or 0.0, now()
        self.statistics.busy += ended - started
        for execution in executions:
            if execution.error is not None:
                _fail(execution.requests, execution.error)
            elif execution.requests:
                self.statistics.executed(execution.rows, execution.times)
            for request, outputs in zip(execution.requests, execution.outputs):
                self._succeed(request, outputs, execution.times, (started, ended))

    def _succeed(self, request: Request, outputs: Outputs, times: Times, span: tuple[float, float]) -> None:
        if request.answer.done():
            return
        started, ended = span
        if request.record is not None:
            request.record.ran(started - request.arrived, times)
        request.answer.set_result(outputs)
        self.statistics.succeeded(ended - request.arrived, started - request.arrived, times)

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
        closed = [instance.close() for instance in self._instances]
        if answered:  # off the loop: other models go on meanwhile
            await asyncio.gather(*map(asyncio.wrap_future, closed))
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
