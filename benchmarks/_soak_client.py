"""A client process of the soak test: connections that ask, leave, dribble, stay deaf; and what came back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from _soak_models import Picture
from _soak_requests import Ask, bad, image, tensors

ANSWER_SECONDS = 60.0
_READ = 1 << 16


@dataclass
class Ledger:
    """What one client process saw.

    ``answered``, ``refused`` and ``left`` count requests by model: 200s; other answers that were allowed; requests
    whose client went away, which the server may have run or not. ``lost`` holds when a request without an answer had
    been sent (CLOCK_MONOTONIC), and its kind.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[float, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, other: Ledger) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            mine.update(value) if isinstance(mine, Counter) else mine.extend(value)

    def judge(self, ask: Ask, status: int, headers: dict[str, str], body: bytes, *, stopping: bool = False) -> None:
        self.outcomes[f"{ask.kind} {status}"] += 1
        (self.answered if status == 200 else self.refused)[ask.model] += 1
        fault = None if stopping and status == 503 else ask.verdict(status, headers, body)
        if fault is not None:
            self.faults.append(f"{ask.kind} to '{ask.model}': {fault}")

    def leaves(self, ask: Ask, how: str) -> None:
        self.outcomes[f"{ask.kind} left {how}"] += 1
        self.left[ask.model] += 1


class Lost(Exception):
    """The connection ended without a byte of the answer."""


class Connection:
    """HTTP/1.1, by hand: so that it can be broken anywhere."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Connection:
        return cls(*await asyncio.open_connection(*address, limit=1 << 24))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        """One answer. Raises :class:`Lost` where none begins, ``IncompleteReadError`` where it stops in the middle."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if getattr(error, "partial", b""):
                raise
            raise Lost from error
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    async def first_byte(self) -> None:
        await self._reader.readexactly(1)

    def close(self, *, reset: bool = False) -> None:
        if reset:
            sock = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


class Client:
    """What one process does until it is told to stop."""

    def __init__(self, address: tuple[str, int], index: int, seed: int, photographs: list[Picture]) -> None:
        self.index = index
        self.address, self.photographs, self.random = address, photographs, Random(seed)  # noqa: S311
        self.ledger, self.stopping, self.ended = Ledger(), False, False
        self._next = (index << 32) + (15 << 24)  # gRPC's callers take the numbers below

    def ask(self) -> Ask:
        """A request like most: tensors, else an image, else a bad one."""
        self._next += 1
        kind = self.random.random()
        if kind < 0.80:
            return tensors(self.random.choice(("steady", "steady", "replaced", "moved")), self._next, self.random)
        return image(self._next, self.random, self.photographs) if kind < 0.95 else bad(self.random, self.photographs)

    def slow_ask(self) -> Ask:
        self._next += 1
        return tensors("slow", self._next, self.random, busy=False)

    def picture_ask(self) -> Ask:
        self._next += 1
        return image(self._next, self.random, self.photographs[-2:])

    async def worker(self) -> None:
        """One connection after the other; on each, one move after the other."""
        while not self.ended:
            try:
                connection = await Connection.open(self.address)
            except OSError:
                await self._refused()
                continue
            with contextlib.suppress(Lost, ConnectionError, asyncio.IncompleteReadError):
                while not self.ended and await self._move(connection):
                    pass
            connection.close()

    async def _refused(self) -> None:
        if not self.stopping:
            self.ledger.faults.append("a connection was refused")
        await asyncio.sleep(0.05)

    async def _move(self, connection: Connection) -> bool:
        """Whether the connection can be used again."""
        kind = self.random.random()
        if kind < 0.86:
            await self.exchange(connection, [self.ask()])
            return True
        if kind < 0.90:
            await self.exchange(connection, [self.ask() for _ in range(3)])
            return True
        if kind < 0.92:
            await self.dribble(connection, self.ask(), self.random.uniform(0.05, 1.0))
            return True
        await self._leave(connection, self.ask())
        return False

    async def exchange(self, connection: Connection, asks: list[Ask]) -> None:
        """Send all at once; the answers come in the same order, each to its request."""
        start = time.monotonic()
        with self._accounted(asks, start):
            await connection.send(b"".join(ask.wire for ask in asks))
            await self._answers(connection, asks)

    async def dribble(self, connection: Connection, ask: Ask, seconds: float) -> None:
        """A body in pieces is a request like any other."""
        start = time.monotonic()
        with self._accounted([ask], start):
            await connection.send(ask.head)
            step = max(1, len(ask.body) // 4)
            for offset in range(0, len(ask.body), step):
                await asyncio.sleep(seconds / 4)
                await connection.send(ask.body[offset : offset + step])
            await self._answers(connection, [ask], timed=False)

    async def _answers(self, connection: Connection, asks: list[Ask], *, timed: bool = True) -> None:
        start = time.monotonic()
        while asks:
            answer = await asyncio.wait_for(connection.receive(), ANSWER_SECONDS)
            self.ledger.judge(asks.pop(0), *answer, stopping=self.stopping)
            if timed and answer[0] == 200:
                self.ledger.seconds.append(time.monotonic() - start)
            if answer[1].get("connection") == "close":
                if self.stopping:  # those behind it are told so: their turn had not come
                    asks.clear()
                raise ConnectionResetError

    @contextlib.contextmanager
    def _accounted(self, asks: list[Ask], sent: float) -> Iterator[None]:
        """Requests that are still in ``asks`` when the connection has ended were lost."""
        try:
            yield
        except asyncio.TimeoutError:
            self.ledger.faults.append(f"no answer to {asks[0].kind} within {ANSWER_SECONDS:g} s")
            raise ConnectionResetError from None
        except asyncio.IncompleteReadError:
            self.ledger.faults.append(f"half an answer to {asks[0].kind}")
            raise
        except (Lost, ConnectionError):
            self.ledger.lost += [(sent, ask.kind) for ask in asks]
            for ask in asks:
                self.ledger.left[ask.model] += 1
            raise

    async def _leave(self, connection: Connection, ask: Ask) -> None:
        """Go away while sending, while waiting, or while receiving; with a FIN or a reset."""
        how = self.random.choice(("sending", "waiting", "receiving"))
        self.ledger.leaves(ask, how)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if how == "sending":
                await connection.send(ask.wire[: self.random.randrange(len(ask.wire))])
            else:
                await connection.send(ask.wire)
            if how == "waiting":
                await asyncio.sleep(self.random.uniform(0, 0.02))
            if how == "receiving":
                await connection.first_byte()
        connection.close(reset=self.random.random() < 0.5)

    async def bursts(self, size: int, every: float) -> None:
        """More requests at once than the queue holds, each on a connection of its own."""
        while not self.ended:
            await asyncio.sleep(every)
            await asyncio.gather(*(self._one_shot(self.ask()) for _ in range(size)))

    async def repeat(self, make: Callable[[], Ask], seconds: float = 0.0) -> None:
        """One request after the other, each on its own connection; its body takes ``seconds``."""
        while not self.ended:
            await self._one_shot(make(), seconds)

    async def _one_shot(self, ask: Ask, seconds: float = 0.0) -> None:
        try:
            connection = await Connection.open(self.address)
        except OSError:
            await self._refused()
            return
        with contextlib.suppress(Lost, ConnectionError, asyncio.IncompleteReadError):
            await (self.dribble(connection, ask, seconds) if seconds else self.exchange(connection, [ask]))
        connection.close()

    async def half_bodies(self) -> None:
        """Sends half a body and waits: the server must say 408, in its own time."""
        while not self.ended:
            with contextlib.suppress(OSError, Lost, asyncio.IncompleteReadError):
                connection, ask = await Connection.open(self.address), tensors("replaced", 0, self.random)
                try:
                    await connection.send(ask.head + ask.body[: len(ask.body) // 2])
                    status, _, _ = await connection.receive()
                finally:
                    connection.close()
                self.ledger.outcomes[f"half a body {status}"] += 1
                if status != 408:
                    self.ledger.faults.append(f"half a body got {status}")
            await asyncio.sleep(0.2)

    async def deaf(self) -> None:
        """Asks without end and never reads: the server must neither keep the replies nor stop for it."""
        while not self.ended:
            with contextlib.suppress(OSError, asyncio.TimeoutError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, self.address)
                for _ in range(300):
                    self.ledger.outcomes["deaf asked"] += 1
                    await asyncio.wait_for(loop.sock_sendall(sock, tensors("replaced", 0, self.random).wire), 2)
                await asyncio.sleep(3)
