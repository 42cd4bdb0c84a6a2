"""One copy of a model, its thread, and the runs that were sent to it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from deploy.runtime.base import Runner
from deploy.serving.clock import now
from deploy.serving.execution import Feeds, execute, join
from deploy.serving.queues import Outputs, Request
from deploy.serving.statistics import Times

_LOG = logging.getLogger("deploy.serving")
_NOTHING = Times(0, 0, 0)


@dataclass(frozen=True)
class Execution:
    """What came of one run of the network: each request's outputs, or an error for all."""

    requests: Sequence[Request]
    outputs: Sequence[Outputs] = ()
    times: Times = _NOTHING
    error: Exception | None = None

    @property
    def rows(self) -> int:
        return sum(request.rows for request in self.requests)


@dataclass(eq=False)
class Run:
    """A batch that was sent.

    Attributes:
        batch: its requests.
        started: on the loop's clock; None while it stands behind another run of its instance.
        answer: gives the requests their results; None until it has run.
    """

    batch: list[Request]
    started: float | None = None
    answer: Callable[[], None] | None = None

    def begin(self) -> None:
        """Its instance is free for it: no request of it can be late any more."""
        self.started = now()
        for request in self.batch:
            request.stop_timer()


class Instance:
    """A runner and the thread that it runs in. ``runs``: those that have not come back, the running one first.

    A batch that was sent ahead is joined by a second thread while the network runs: of 600 KB inputs, joining takes a
    tenth of the time that the network takes.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner, self.runs = runner, deque[Run]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="instance")
        self._joiner = ThreadPoolExecutor(1, thread_name_prefix="join")

    async def warm_up(self, feeds: Feeds, rows: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, execute, self.runner, [feeds], [rows])

    async def run(self, batch: Sequence[Request]) -> list[Execution]:
        """Run what somebody still waits for when the thread comes to it.

        Where a run of several fails, each runs alone, once: who asked for nothing wrong gets its answer.
        """
        ahead = len(self.runs) > 1 and len(batch) > 1
        try:
            joined = self._joiner.submit(join, [one.feeds for one in batch]) if ahead else None
            work = self._thread.submit(_executions, self.runner, batch, joined)
        except RuntimeError as error:  # closed: the drain's limit has passed
            return [Execution(batch, error=error)]
        return await asyncio.wrap_future(work)

    def close(self) -> Future[None]:
        """Close the runner behind the run that it may be in."""
        closed = self._thread.submit(self.runner.close)
        self._thread.shutdown(wait=False)
        self._joiner.shutdown(wait=False)
        return closed


def _executions(runner: Runner, batch: Sequence[Request], joined: Future[Feeds] | None) -> list[Execution]:
    """All in one call of the thread: what stands behind the batch runs behind its retries."""
    try:
        return [_execution(runner, batch, joined)]
    except Exception as error:  # noqa: BLE001 - whatever a backend raises belongs to those who asked
        if len(batch) == 1:
            return [Execution(batch, error=error)]
        _LOG.warning("a run of %d requests failed, each is run alone: %r", len(batch), error)
        return [execution for request in batch for execution in _executions(runner, [request], None)]


def _execution(runner: Runner, batch: Sequence[Request], joined: Future[Feeds] | None) -> Execution:
    awaited = [request for request in batch if not request.answer.done()]
    if not awaited:
        return Execution(awaited)
    if len(awaited) < len(batch):
        joined = None  # somebody has left since
    outputs, times = execute(runner, [one.feeds for one in awaited], [one.rows for one in awaited], joined)
    return Execution(awaited, outputs, times)
