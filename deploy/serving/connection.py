"""One HTTP/1.1 connection: uvicorn's, with bounds on a request's head that its parser does not have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from deploy.serving.direct import DirectBodies

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10.0
# An ASGI extension: its "call" is a set of functions that are called when the client goes away.
ON_DISCONNECT = "deploy.on_disconnect"


class Connection(DirectBodies):
    """Closes itself on a head of more than ``HEAD_BYTES``, or one that is not there ``HEAD_SECONDS`` after its start.

    The first head starts with the connection. What is read at once, up to 16 KiB, is parsed at once: a head is cut off
    by the read that follows. A body that goes on after its reply has ``HEAD_SECONDS`` to end, so that the client reads
    the reply instead of a reset. Between requests uvicorn's ``timeout_keep_alive`` holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._head_bytes = True, 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._on_disconnect: set[Callable[[], object]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        for call in list(self._on_disconnect):
            call()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"the request's head is too large: expected at most {HEAD_BYTES} bytes")
                return
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes and self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        self.scope.setdefault("extensions", {})[ON_DISCONNECT] = {"call": self._on_disconnect}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()
        if self._head_timer is not None:  # the reply went out before: what uvicorn then started, the body has stopped
            self._stop_timer()
            self._unset_keepalive_if_required()
            seconds = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete and self._head_timer is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not HTTP/1.1")

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        if not self._in_head:
            self.transport.close()
        self._refuse(408, f"the request's head did not come in time: expected within {HEAD_SECONDS:g} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer in the protocol's words and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
