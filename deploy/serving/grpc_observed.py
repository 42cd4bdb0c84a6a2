"""A gRPC interceptor that makes a record of each call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import grpc

from deploy.serving.record import CURRENT, Record
from deploy.serving.telemetry import TRACE_CONTEXT, Telemetry

_INFERS = ("/ModelInfer", "/ModelStreamInfer")
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler | None"]]


class ObservedCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no type information
    """For ``grpc.aio.server(interceptors=[…])``: a unary call has a :func:`deploy.serving.record.current`.

    The handler of a stream makes one for each message, by :func:`observed`.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(self, continuation: Continuation, details: Any) -> Any:
        """The method's handler; one of unary requests and replies is wrapped."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        behaviour = handler.unary_unary

        async def call(request: Any, context: Any) -> Any:
            with observed(self._telemetry, details.method, context) as record:
                record.bytes_in = request.ByteSize()
                reply = await behaviour(request, context)
                record.bytes_out = reply.ByteSize()
                return reply

        return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


@contextlib.contextmanager
def observed(telemetry: Telemetry, method: str, context: Any) -> Iterator[Record]:
    """The record of a call, or of one message of a stream, which ends with this block.

    Its status is what the block sets, else the context's.
    """
    metadata = context.invocation_metadata() if telemetry.traces else ()
    parent = {name: value for name, value in metadata or () if name in TRACE_CONTEXT}
    record = Record("grpc", method, "", _address(context.peer()), parent, status="")
    token = CURRENT.set(record)
    try:
        yield record
        record.status = record.status or _code(context.code()) or "OK"
    except asyncio.CancelledError:
        record.status = "CANCELLED"
        raise
    except BaseException:
        record.status = _code(context.code()) or "UNKNOWN"
        raise
    finally:
        CURRENT.reset(token)
        record.end("write")
        telemetry.finished(record, infers=method.endswith(_INFERS))


def _code(code: Any) -> str:
    """gRPC's name of a status, which a context gives as a number, an enumerator or nothing."""
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return _CODES.get(code, "") if code else ""


def _address(peer: str) -> str:
    """``ipv4:127.0.0.1:5000`` → ``127.0.0.1``; ``ipv6:%5B::1%5D:5000`` → ``::1``; anything else as it is."""
    family, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else peer
