"""What the server has accepted: a request whose head was read is waited for, whatever becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_LIVE = "/v2/health/live"


class Gate:
    """Stands before an ASGI application: knows the requests under way, and refuses those that come once it closes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self.closed = app, False
        self._under_way: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closed and scope["path"] != _LIVE:
            await _stopping()(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # ASGI servers run each request in one
        self._under_way.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way.discard(task)

    async def close(self, limit: float) -> bool:
        """Answer 503 to what comes from now on; whether all that came before was done within ``limit`` seconds.

        Done: its body came, its image was decoded, it was inferred, and the reply was given to its connection.
        """
        self.closed = True
        if not self._under_way:
            return True
        _, late = await asyncio.wait(set(self._under_way), timeout=limit)
        return not late


def _stopping() -> Response:
    body = orjson.dumps({"error": "the server stops"})
    return Response(body, 503, {"Connection": "close"}, "application/json")
