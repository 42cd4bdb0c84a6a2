"""Progress of a build, and its cancellation.

TensorRT reports phases: they nest, run one after another or at once, and have a known number of steps. The builder
holds its thread for minutes, in which Python delivers no Ctrl-C; so it works on a second thread while the first
waits, and is asked to stop through the answer to ``step_complete``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Protocol, TypeVar

from deploy.engine.api import IProgressMonitor, TensorRt

T = TypeVar("T")


class Progress(Protocol):
    """What draws progress. Calls come from the builder's threads; names are unique among phases under way."""

    def start(self, phase: str, parent: str | None, steps: int) -> None: ...

    def step(self, phase: str, step: int) -> None: ...

    def finish(self, phase: str) -> None: ...


class Watch:
    """Passes a build's phases on, and stops the build when it is cancelled or when drawing fails."""

    def __init__(self, progress: Progress | None) -> None:
        self.cancelled = threading.Event()
        self._progress = progress
        self._error: BaseException | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` on another thread; Ctrl-C asks it to stop, waits until it has, then raises KeyboardInterrupt.

        Raises whatever ``work`` or the progress callback raised.
        """
        # Not an executor: interrupted while it starts its thread, it forgets the thread and does not wait for it.
        done: Future[T] = Future()
        try:
            threading.Thread(target=_fulfil, args=(done, work), name="tensorrt-build").start()
            result = done.result()
        except KeyboardInterrupt:
            self.cancelled.set()
            if not done.cancel():
                wait([done])
            raise
        except Exception:
            if self._error is None:  # else this is only how the builder took the stop
                raise
        if self._error is not None:
            raise self._error
        return result

    def tell(self, report: Callable[[Progress], None]) -> bool:
        """Report to the caller's progress; False when the build has to stop."""
        if self._progress is not None and not self.cancelled.is_set():
            # An exception that crossed TensorRT's C++ frames would end the process: it waits for `run` instead.
            try:
                report(self._progress)
            except BaseException as error:  # noqa: BLE001
                self._error = error
                self.cancelled.set()
        return not self.cancelled.is_set()


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            done.set_exception(error)


def make_monitor(trt: TensorRt, watch: Watch) -> IProgressMonitor:
    """TensorRT's monitor of one build, reporting to ``watch``."""
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # the base exists only once the module is imported
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.tell(lambda progress: progress.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.tell(lambda progress: progress.step(phase_name, step))

        def phase_finish(self, phase_name: str) -> None:
            watch.tell(lambda progress: progress.finish(phase_name))

    return Monitor()
