"""Bounds on connections: how many there are, and how long one may not read its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from deploy.errors import MachineError

# Files that the server opens beside its connections: models, libraries, other ports, connections that are refused.
_OTHER_FILES = 256
_LINGER_SECONDS, _MOST_LINGERING = 2.0, 64
_BODY = b'{"error":"the server has too many connections"}'
_REPLY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class _Connection(Protocol):
    """What uvicorn's protocols have."""

    transport: asyncio.Transport


class Bound:
    """``make``, uvicorn's protocol class, for at most ``most`` connections: the next client gets 503 and is closed."""

    def __init__(self, make: Callable[..., asyncio.Protocol], most: int) -> None:
        self._make, self._most = make, most
        self._lingering: set[_Refusal] = set()

    def __call__(self, **given: object) -> asyncio.Protocol:
        if len(given["server_state"].connections) < self._most:  # type: ignore[attr-defined] # uvicorn.server.ServerState
            return self._make(**given)
        return _Refusal(self._lingering)


class _Refusal(asyncio.Protocol):
    """Says 503, then reads on for a moment: closing with data unread would reset the connection and lose the reply."""

    def __init__(self, lingering: set[_Refusal]) -> None:
        self._lingering = lingering
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # TCP's have all of it
        if len(self._lingering) >= _MOST_LINGERING:
            transport.abort()
            return
        self._lingering.add(self)
        transport.write(_REPLY)
        transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering.discard(self)
        if self._timer is not None:
            self._timer.cancel()


class Stalls:
    """Connections whose client does not read: closed when nothing of a reply has gone for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: dict[_Connection, tuple[int, float]] = {}

    def sweep(self, connections: Collection[_Connection], now: float) -> None:
        """Look at all connections; to be called about once a second."""
        held = {}
        for connection in list(connections):
            size = connection.transport.get_write_buffer_size()
            if not size:
                continue
            before, since = self._held.get(connection, (size, now))
            held[connection] = size, (now if size < before else since)
            if now - held[connection][1] > self._seconds:
                connection.transport.abort()
        self._held = held


def unsent(connections: Collection[_Connection]) -> bool:
    """Whether a reply has not wholly gone."""
    return any(connection.transport.get_write_buffer_size() for connection in connections)


def allow_files(connections: int) -> None:
    """Raise this process's limit of open files so that it can hold ``connections``.

    Raises:
        MachineError: the system does not let it have as many.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        fix = f"Raise it (ulimit -Hn), or give --max-connections {max(1, hard - _OTHER_FILES)}."
        raise MachineError(f"{connections} connections need {wanted} open files", got=f"a limit of {hard}", fix=fix)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
