"""The time that a server takes to end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

# After the limit, for what is refused then to go out.
GRACE_SECONDS = 2.0
_BEGIN, _END = b"b", b"e"


class Drain:
    """Counts from the first signal; ``overdue`` is called in a thread where the server still runs after the limit.

    The thread is there from the start: a signal's handler may interrupt anything, so it must not take a lock, which
    starting one does.
    """

    def __init__(self, limit: float, overdue: Callable[[], None]) -> None:
        """``limit``: in seconds. Ended by :meth:`end`."""
        self._limit, self._overdue, self._until = limit, overdue, float("inf")
        self._ended = threading.Event()
        self._reads, self._writes = os.pipe()
        self._thread = threading.Thread(target=self._watch, name="drain", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Safe in a signal's handler."""
        self._until = time.monotonic() + self._limit
        os.write(self._writes, _BEGIN)

    def left(self) -> float:
        """Seconds; the whole limit before :meth:`begin`."""
        return min(self._limit, max(0.0, self._until - time.monotonic()))

    def end(self) -> None:
        """The server has ended; ``overdue`` is not called any more."""
        self._ended.set()
        os.write(self._writes, _END)
        self._thread.join()
        os.close(self._reads)
        os.close(self._writes)

    def _watch(self) -> None:
        if os.read(self._reads, 1) == _BEGIN and not self._ended.wait(self._limit + GRACE_SECONDS):
            self._overdue()
