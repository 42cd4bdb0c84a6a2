"""Calls of the gRPC services: bytes in, bytes and statuses out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from deploy.errors import InputError
from deploy.serving.access import NO_KEY, has_key
from deploy.serving.errors import (
    AlreadyRegistered,
    QueueFull,
    TimedOut,
    TooLarge,
    Unavailable,
    UnknownModel,
    UnknownRegion,
    Unsupported,
    refusal,
)
from deploy.serving.grpc_observed import observed
from deploy.serving.grpc_service import Methods
from deploy.serving.protobuf import message, services
from deploy.serving.service import Service
from deploy.serving.telemetry import Telemetry

_CODES = grpc.StatusCode
_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (UnknownModel, _CODES.NOT_FOUND),
    (UnknownRegion, _CODES.NOT_FOUND),
    (AlreadyRegistered, _CODES.ALREADY_EXISTS),
    (TooLarge, _CODES.RESOURCE_EXHAUSTED),
    (Unsupported, _CODES.UNIMPLEMENTED),
    (QueueFull, _CODES.UNAVAILABLE),
    (TimedOut, _CODES.UNAVAILABLE),
    (Unavailable, _CODES.UNAVAILABLE),
    (MemoryError, _CODES.UNAVAILABLE),
    (InputError, _CODES.INVALID_ARGUMENT),
)
# What health checks of load balancers ask without a key, as over HTTP.
_OPEN = (
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_STREAMED = 64  # requests of one stream that are under way; more stay with the client


def _failure(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """The status of an error and what the client is told."""
    return refusal(error, _STATUS, _CODES.INTERNAL, method)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InputError("Unable to parse request") from error


def _unary(method: Any, path: str, handler: Callable[[Any], Awaitable[Any]], told: Telemetry) -> grpc.RpcMethodHandler:
    kind = message(method.input_type.full_name)

    async def call(data: bytes, context: Any) -> Any:
        with observed(told, path, context) as record:
            record.bytes_in = len(data)
            try:
                reply = (await handler(_parsed(kind, data))).SerializeToString()
            except Exception as error:  # noqa: BLE001 - every error is a status
                code, why = _failure(error, method.full_name)
                record.status = code.name
                await context.abort(code, why)
            record.bytes_out = len(reply)
            return reply

    return grpc.unary_unary_rpc_method_handler(call)


class _Streams:
    """ModelStreamInfer: a reply for each request, in their order, while later ones already run."""

    def __init__(self, infer: Callable[[Any], Awaitable[Any]], told: Telemetry) -> None:
        self._infer, self._told = infer, told
        self._readers: set[asyncio.Task[None]] = set()

    async def serve(self, _: object, context: Any) -> None:
        """One stream. When the server stops it ends behind the replies to what was read."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        room, running = asyncio.Semaphore(_STREAMED), set[asyncio.Task[bytes]]()

        async def read() -> None:
            try:
                while await room.acquire() and (data := await context.read()) is not grpc.aio.EOF:
                    task = asyncio.create_task(self._answer(data, context))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    answers.put_nowait(task)
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                room.release()
        finally:
            self._readers.discard(reader)
            for task in (reader, *running):
                task.cancel()
        if reader.cancelled():
            await context.abort(_CODES.UNAVAILABLE, "the server stops")

    async def _answer(self, data: bytes, context: Any) -> bytes:
        """The reply to one request; an error is one too, and the stream goes on."""
        with observed(self._told, _STREAM, context) as record:
            record.bytes_in = len(data)
            reply, code = await self._reply(data)
            record.status, record.bytes_out = code.name, len(reply)
            return reply

    async def _reply(self, data: bytes) -> tuple[bytes, grpc.StatusCode]:
        """Also the status that it would have as a call of its own."""
        code = _CODES.OK
        reply = message("inference.ModelStreamInferResponse")()
        identifier = ""
        try:
            request = _parsed(message("inference.ModelInferRequest"), data)
            identifier = request.id
            reply.infer_response.CopyFrom(await self._infer(request))
            reply.infer_response.parameters["triton_final_response"].bool_param = True
        except Exception as error:  # noqa: BLE001 - every error is a reply
            code, reply.error_message = _failure(error, "ModelStreamInfer")
            reply.infer_response.id = identifier
        return bytes(reply.SerializeToString()), code

    def stop(self) -> None:
        for reader in self._readers:
            reader.cancel()


def _refusing(code: grpc.StatusCode, why: str, method: str, told: Telemetry) -> grpc.RpcMethodHandler:
    """Refuses before anything of the request is read."""

    async def refuse(_: object, context: Any) -> None:
        with observed(told, method, context) as record:
            record.status = code.name
            await context.abort(code, why)

    return grpc.stream_stream_rpc_method_handler(refuse)


class Router(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The services' methods, behind the API key where there is one."""

    def __init__(self, service: Service, key: str | None) -> None:
        methods = Methods(service)
        self._key, self._told = key, service.telemetry
        self._streams = _Streams(methods.model_infer, self._told)
        self._handlers = dict(_handlers(methods, self._streams, self._told))

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        if self._key is not None and details.method not in _OPEN:
            given = dict(details.invocation_metadata or ()).get("authorization", "")
            if not has_key(str(given), self._key):
                return _refusing(_CODES.UNAUTHENTICATED, NO_KEY, details.method, self._told)
        handler = self._handlers.get(details.method)
        return handler or _refusing(_CODES.UNIMPLEMENTED, "this extension is not supported", details.method, self._told)

    def stop(self) -> None:
        """End the streams."""
        self._streams.stop()


def _handlers(methods: Methods, streams: _Streams, told: Telemetry) -> Iterator[tuple[str, grpc.RpcMethodHandler]]:
    for service in services():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if method.client_streaming:
                yield path, grpc.stream_stream_rpc_method_handler(streams.serve)
            else:
                yield path, _unary(method, path, getattr(methods, _pythonic(method.name)), told)


def _pythonic(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
