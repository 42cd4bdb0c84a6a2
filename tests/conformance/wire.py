"""Requests over a socket as they are, and what comes back."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse

from conformance.requests import Request

SECONDS = 8.0


@dataclass
class Reply:
    """One reply; ``status`` 0 where none came, because of ``failure``. ``at``: when it was there (monotonic)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str | None = None
    at: float = 0.0


class _Stream:
    """What :class:`HTTPResponse` takes for a socket: the same buffered stream for every reply on the connection."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Kept(self._stream)


class _Kept(io.BufferedIOBase):
    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def read(self, size: int | None = -1) -> bytes:
        return self._stream.read(size)

    def readinto(self, buffer: bytearray) -> int:
        return self._stream.readinto(buffer)

    def readline(self, size: int = -1) -> bytes:
        return self._stream.readline(size)


def send(address: tuple[str, int], request: Request, seconds: float = SECONDS) -> list[Reply]:
    """The replies to one request's bytes on a connection of its own."""
    with socket.create_connection(address, timeout=seconds) as connection:
        with contextlib.suppress(OSError):  # refused before its end: the reply may be there
            connection.sendall(request.bytes())
        with connection.makefile("rb") as stream:
            return [_reply(stream, request.method) for _ in range(request.replies)]


def _reply(stream: io.BufferedReader, method: str) -> Reply:
    response = HTTPResponse(_Stream(stream), method=method)
    try:
        response.begin()
        body = response.read()
    except TimeoutError:
        return Reply(0, failure="no reply")
    except (HTTPException, OSError):
        return Reply(0, failure="closed")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, body, at=time.monotonic())


def send_all(address: tuple[str, int], requests: Sequence[Request], stagger: float) -> list[Reply]:
    """One reply for each request, sent ``stagger`` seconds apart without waiting."""
    replies: list[Reply | None] = [None] * len(requests)

    def one(index: int, request: Request) -> None:
        (replies[index],) = send(address, request)

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(requests)]
    for thread in threads:
        thread.start()
        time.sleep(stagger)
    for thread in threads:
        thread.join()
    return [reply for reply in replies if reply is not None]
