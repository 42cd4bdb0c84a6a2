"""A load generator for HTTP/1.1: few microseconds of processor time for each request, every reply checked.

Closed loop: each connection sends its next request when it has its reply. Open loop: requests are due at the times of a
Poisson process, whatever the server does, and latency counts from then, so a server that stalls cannot hide what
waited meanwhile.
"""

from __future__ import annotations

import random
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from _serving_wire import Wire, Wrong

_TICK_S = 0.05
GRACE_S = 5.0  # how long after the counted time replies are waited for
TOLERANCE = 0.01  # of a logit; those of other inputs are at least ten times as far away


@dataclass(frozen=True)
class Load:
    """What one process sends, and when.

    Attributes:
        requests: whole HTTP requests, one for each input; ``expected``: the logits of each.
        rate: requests a second of an open loop; None is a closed loop.
        start, begin, end: seconds of ``time.monotonic()``. What is sent before ``begin`` warms up and does not count.
    """

    port: int
    wire: Wire
    requests: tuple[bytes, ...]
    expected: np.ndarray
    connections: int
    rate: float | None
    start: float
    begin: float
    end: float
    seed: int = 0

    def shares(self, processes: int) -> list[Load]:
        """The same load from several processes."""
        count = min(processes, self.connections)
        sizes = [self.connections // count + (index < self.connections % count) for index in range(count)]
        rates = [self.rate and self.rate * size / self.connections for size in sizes]
        return [replace(self, connections=n, rate=r, seed=self.seed + i) for i, (n, r) in enumerate(zip(sizes, rates))]


@dataclass
class Answers:
    """What came back. Latencies in seconds.

    Attributes:
        finished: replies within the counted time.
        unanswered: requests of the open loop without a reply at the end; their wait so far is among the latencies.
        cpu_s: processor time that the generator took within the counted time.
    """

    latencies: list[float] = field(default_factory=list)
    finished: int = 0
    unanswered: int = 0
    cpu_s: float = 0.0

    def add(self, other: Answers) -> None:
        self.latencies += other.latencies
        self.finished += other.finished
        self.unanswered += other.unanswered
        self.cpu_s += other.cpu_s


class _Connection:
    """One request at a time over one socket that is kept open."""

    def __init__(self, load: Load, poll: select.epoll) -> None:
        self._load, self._poll = load, poll
        self._socket = socket.create_connection(("127.0.0.1", load.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._unsent, self._reply, self._input, self.due = memoryview(b""), bytearray(), 0, 0.0
        poll.register(self.fileno, select.EPOLLIN)

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, number: int, due: float) -> None:
        """Start a request for input ``number``, which was due at ``due``."""
        self._input, self.due, self._unsent = number, due, memoryview(self._load.requests[number])
        self._write()
        if self._unsent:
            self._poll.modify(self.fileno, select.EPOLLIN | select.EPOLLOUT)

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass

    def on_ready(self, events: int) -> bool:
        """Go on sending or receiving; whether the reply is complete. Raises :class:`Wrong` where it is wrong."""
        if events & select.EPOLLOUT:
            self._write()
            if not self._unsent:
                self._poll.modify(self.fileno, select.EPOLLIN)
        return bool(events & ~select.EPOLLOUT) and self._read()

    def _read(self) -> bool:
        chunk = self._socket.recv(1 << 16)
        if not chunk:
            raise Wrong("the server closed a connection")
        self._reply += chunk
        logits = self._load.wire.logits(self._reply)
        if logits is None:
            return False
        expected = self._load.expected[self._input]
        if self._unsent or logits.shape != expected.shape or not np.abs(logits - expected).max() < TOLERANCE:
            raise Wrong(f"a reply is not that of input {self._input}")
        self._reply.clear()
        return True

    def close(self) -> None:
        self._socket.close()


def generate(load: Load) -> Answers:
    """Send, receive, check. Raises :class:`Wrong`."""
    with select.epoll() as poll:
        connections = [_Connection(load, poll) for _ in range(load.connections)]
        try:
            return _Run(load, poll, connections).answers()
        finally:
            for connection in connections:
                connection.close()


class _Run:
    def __init__(self, load: Load, poll: select.epoll, connections: list[_Connection]) -> None:
        self._load, self._poll = load, poll
        self._of = {connection.fileno: connection for connection in connections}
        self._idle, self._waiting = deque(connections), deque[float]()
        self._times = None if load.rate is None else _poisson(load.rate, load.start, load.seed)
        self._next = load.start if self._times is None else next(self._times)
        self._input, self._answers, self._cpu = load.seed, Answers(), _Clock(load.begin, load.end)

    def answers(self) -> Answers:
        now = time.monotonic()
        while (now < self._load.end or len(self._idle) < len(self._of)) and now < self._load.end + GRACE_S:
            self._send(now)
            self._wait(now)
            now = time.monotonic()
        self._give_up(now)
        self._answers.cpu_s = self._cpu.taken()
        return self._answers

    def _send(self, now: float) -> None:
        self._waiting.extend(self._due(now))
        while self._waiting and self._idle:
            self._input = (self._input + 1) % len(self._load.requests)
            self._idle.popleft().send(self._input, self._waiting.popleft())

    def _due(self, now: float) -> Iterator[float]:
        """When the requests that are due by ``now``, and not yet sent, were due."""
        if self._times is None:
            yield from (now for _ in self._idle if self._load.start <= now < self._load.end)
            return
        while self._next <= now and self._next < self._load.end:
            yield self._next
            self._next = next(self._times)

    def _wait(self, now: float) -> None:
        # epoll's own timeout is in milliseconds, select's in microseconds.
        until = min(now + _TICK_S, self._next) if self._next > now else now + _TICK_S
        select.select([self._poll], [], [], until - now)
        for fileno, events in self._poll.poll(0):
            connection = self._of[fileno]
            if connection.on_ready(events):
                self._finish(connection)
        self._cpu.tick(time.monotonic())

    def _finish(self, connection: _Connection) -> None:
        now, load = time.monotonic(), self._load
        self._idle.append(connection)
        self._answers.finished += load.begin <= now < load.end
        if load.begin <= (now if load.rate is None else connection.due) < load.end:
            self._answers.latencies.append(now - connection.due)

    def _give_up(self, now: float) -> None:
        busy = [connection.due for connection in self._of.values() if connection not in self._idle]
        if self._load.rate is None and busy:
            raise Wrong(f"{len(busy)} requests had no reply {GRACE_S:g} s after the last was sent")
        waits = [now - due for due in (*busy, *self._waiting) if self._load.begin <= due]
        self._answers.latencies += waits
        self._answers.unanswered += len(waits)


def _poisson(rate: float, start: float, seed: int) -> Iterator[float]:
    generator, due = random.Random(seed), start  # noqa: S311 - arrivals, not secrets
    while True:
        due += generator.expovariate(rate)
        yield due


class _Clock:
    """This process's processor time between two moments, as seen by whoever calls often."""

    def __init__(self, begin: float, end: float) -> None:
        self._marks, self._seen = [begin, end], list[float]()

    def tick(self, now: float) -> None:
        while len(self._seen) < 2 and now >= self._marks[len(self._seen)]:
            self._seen.append(_cpu_s())

    def taken(self) -> float:
        return (self._seen[1] if len(self._seen) > 1 else _cpu_s()) - (self._seen[0] if self._seen else 0.0)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
