"""Calls of the gRPC services: bytes in, bytes and statuses out."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from deploy.errors import DeployError, InputError
from deploy.serving.errors import (
    AlreadyRegistered,
    QueueFull,
    TimedOut,
    TooLarge,
    Unavailable,
    UnknownModel,
    UnknownRegion,
    Unsupported,
    told,
)
from deploy.serving.grpc_service import Methods
from deploy.serving.keys import NO_KEY, has_key
from deploy.serving.protobuf import message, services
from deploy.serving.service import Service

_LOG = logging.getLogger("deploy.serving")
_CODES = grpc.StatusCode
# The first that fits; anything else is a bug, of which the client learns nothing more.
_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (UnknownModel, _CODES.NOT_FOUND),
    (UnknownRegion, _CODES.NOT_FOUND),
    (AlreadyRegistered, _CODES.ALREADY_EXISTS),
    (TooLarge, _CODES.RESOURCE_EXHAUSTED),
    (Unsupported, _CODES.UNIMPLEMENTED),
    (QueueFull, _CODES.UNAVAILABLE),
    (TimedOut, _CODES.UNAVAILABLE),
    (Unavailable, _CODES.UNAVAILABLE),
    (InputError, _CODES.INVALID_ARGUMENT),
)
# What health checks of load balancers ask without a key, as over HTTP.
_OPEN = (
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
_STREAMED = 64  # requests of one stream that are under way; more stay with the client


def _failure(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """The status of an error and what the client is told."""
    for kind, code in _STATUS:
        if isinstance(error, kind):
            if isinstance(error, DeployError) and error.details:
                _LOG.error("%s: %s", error.headline, "; ".join(error.details))
            return code, told(error)
    _LOG.error("%s failed", method, exc_info=error)
    return _CODES.INTERNAL, "internal error"


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InputError("Unable to parse request") from error


def _unary(method: Any, handler: Callable[[Any], Awaitable[Any]]) -> grpc.RpcMethodHandler:
    kind = message(method.input_type.full_name)

    async def call(data: bytes, context: Any) -> Any:
        try:
            return (await handler(_parsed(kind, data))).SerializeToString()
        except Exception as error:  # noqa: BLE001 - every error is a status
            await context.abort(*_failure(error, method.full_name))

    return grpc.unary_unary_rpc_method_handler(call)


class _Streams:
    """ModelStreamInfer: a reply for each request, in their order, while later ones already run."""

    def __init__(self, infer: Callable[[Any], Awaitable[Any]]) -> None:
        self._infer = infer
        self._readers: set[asyncio.Task[None]] = set()

    async def serve(self, _: object, context: Any) -> None:
        """One stream. When the server stops it ends behind the replies to what was read."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_STREAMED)
        reader = asyncio.create_task(self._read(context, answers, room))
        self._readers.add(reader)
        running: asyncio.Task[bytes] | None = None
        try:
            while (running := await answers.get()) is not None:
                await context.write(await running)
                room.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            while running is not None:
                running.cancel()
                running = None if answers.empty() else answers.get_nowait()
        if reader.cancelled():
            await context.abort(_CODES.UNAVAILABLE, "the server stops")

    async def _read(self, context: Any, answers: asyncio.Queue[asyncio.Task[bytes] | None], room: Any) -> None:
        try:
            while await room.acquire() and (data := await context.read()) is not grpc.aio.EOF:
                answers.put_nowait(asyncio.create_task(self._answer(data)))
        finally:
            answers.put_nowait(None)

    async def _answer(self, data: bytes) -> bytes:
        """The reply to one request; an error is one too, and the stream goes on."""
        reply = message("inference.ModelStreamInferResponse")()
        identifier = ""
        try:
            request = _parsed(message("inference.ModelInferRequest"), data)
            identifier = request.id
            reply.infer_response.CopyFrom(await self._infer(request))
            reply.infer_response.parameters["triton_final_response"].bool_param = True
        except Exception as error:  # noqa: BLE001 - every error is a reply
            reply.error_message = _failure(error, "ModelStreamInfer")[1]
            reply.infer_response.id = identifier
        return bytes(reply.SerializeToString())

    def stop(self) -> None:
        for reader in self._readers:
            reader.cancel()


def _refusing(code: grpc.StatusCode, why: str) -> grpc.RpcMethodHandler:
    """Refuses before anything of the request is read."""

    async def refuse(_: object, context: Any) -> None:
        await context.abort(code, why)

    return grpc.stream_stream_rpc_method_handler(refuse)


class Router(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The services' methods, behind the API key where there is one."""

    def __init__(self, service: Service, key: str | None) -> None:
        methods = Methods(service)
        self._streams = _Streams(methods.model_infer)
        self._handlers = dict(_handlers(methods, self._streams))
        self._key, self._no_key = key, _refusing(_CODES.UNAUTHENTICATED, NO_KEY)
        self._unsupported = _refusing(_CODES.UNIMPLEMENTED, "this extension is not supported")

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        if self._key is not None and details.method not in _OPEN:
            given = dict(details.invocation_metadata or ()).get("authorization", "")
            if not has_key(str(given), self._key):
                return self._no_key
        return self._handlers.get(details.method, self._unsupported)

    def stop(self) -> None:
        """End the streams."""
        self._streams.stop()


def _handlers(methods: Methods, streams: _Streams) -> Iterator[tuple[str, grpc.RpcMethodHandler]]:
    for service in services():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if method.client_streaming:
                yield path, grpc.stream_stream_rpc_method_handler(streams.serve)
            else:
                yield path, _unary(method, getattr(methods, _pythonic(method.name)))


def _pythonic(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
