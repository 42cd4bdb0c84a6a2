"""ASGI middleware that makes a record of each HTTP request."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.serving.direct import BODY
from deploy.serving.record import CURRENT, Record
from deploy.serving.telemetry import TRACE_CONTEXT, Telemetry

_INFERS = ("/infer", "/classify")


class Observed:
    """``app``, whose requests have a :func:`deploy.serving.record.current` that is told to ``telemetry`` at the end."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        record = Record("http", scope["method"], scope["path"], client[0] if client else "")
        if self._telemetry.traces:
            record.parent = _trace_context(scope["headers"])

        async def counted_receive() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        token = CURRENT.set(record)
        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            CURRENT.reset(token)
            record.end("write")
            record.bytes_in += len(scope.get("extensions", {}).get(BODY, {}).get("whole", b""))
            self._telemetry.finished(record, infers=record.path.endswith(_INFERS))


def _trace_context(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    named = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
    return {name: value for name, value in named if name in TRACE_CONTEXT}
