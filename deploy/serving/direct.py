"""Bodies read from the socket straight into place."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import numpy as np
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# An ASGI extension: its "whole" is a buffer with the body, once receive() has given an empty last piece.
BODY = "deploy.body"
# Longer bodies, and chunked ones, reach the application through receive(), as ASGI has it.
WHOLE_BYTES = 64 << 20
_SCRATCH_BYTES = 16 << 10


class DirectBodies(HttpToolsProtocol, asyncio.BufferedProtocol):
    """uvicorn's HTTP/1.1 protocol, where a body of known length is not copied on its way to the application.

    Through the parser a body is copied five times, in pieces; for tensors that is most of what the server itself costs.
    Here the parser sees heads, and what came with them in one read; the rest of a body goes into a buffer of its size,
    which takes memory only as it fills. A parser of its own then reads the next head.
    """

    def __init__(self, *args: Any, longest: int = WHOLE_BYTES, **kwargs: Any) -> None:
        """``longest``: bytes of a body that is read so, at most ``WHOLE_BYTES``."""
        super().__init__(*args, **kwargs)
        self._longest = min(longest, WHOLE_BYTES)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._body: memoryview | None = None
        self._filled = self._skipped = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._skipped:
            return self._scratch[: self._skipped]
        return self._scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._skipped:
            self._skipped -= nbytes
            if not self._skipped:
                self._end_body()
            return
        if self._body is None:
            self.data_received(bytes(self._scratch[:nbytes]))
            return
        self._filled += nbytes
        if self._filled == len(self._body):
            self._end_body()

    def _end_body(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a body that nobody waits for is not kept."""
        super().on_response_complete()
        if self._body is not None and self.cycle.response_complete:
            self._skipped, self._body = len(self._body) - self._filled, None

    def on_headers_complete(self) -> None:
        length = _length(self.headers)
        self.scope.setdefault("extensions", {})
        super().on_headers_complete()
        if 0 < length <= self._longest:
            self._body, self._filled = np.empty(length, np.uint8).data, 0

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
            return
        self._body[self._filled : self._filled + len(body)] = body
        self._filled += len(body)

    def on_message_complete(self) -> None:
        if self._body is not None:
            self.scope["extensions"][BODY] = {"whole": self._body}
            self._body = None
        super().on_message_complete()


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """The Content-Length, which the parser has found to be a number; 0 for a chunked body, or none."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)
