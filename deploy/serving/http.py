"""The Open Inference Protocol (KServe v2) over HTTP with Triton's extensions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.errors import InputError
from deploy.serving.access import NO_KEY, OTHER_SITE, has_key, of_another_site
from deploy.serving.bodies import SlowBody, compressed, read_body
from deploy.serving.connection import ON_DISCONNECT
from deploy.serving.descriptions import model_config, model_metadata, model_statistics, server_metadata
from deploy.serving.errors import (
    QueueFull,
    TimedOut,
    TooLarge,
    Unavailable,
    UnknownModel,
    UnknownRegion,
    Unsupported,
    refusal,
    told,
)
from deploy.serving.http_regions import PREFIX, RegionHandlers
from deploy.serving.images import TOP_K
from deploy.serving.messages import read_request, write_reply
from deploy.serving.observed import Observed
from deploy.serving.page import page_routes
from deploy.serving.record import current
from deploy.serving.repository import Model
from deploy.serving.service import Service

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModel, 404),
    (UnknownRegion, 404),
    (TooLarge, 413),
    (SlowBody, 408),
    (Unsupported, 501),
    (QueueFull, 503),
    (TimedOut, 503),
    (Unavailable, 503),
    (MemoryError, 503),
    (InputError, 400),
)
_GONE = 499  # nginx's "client closed request"; nobody reads it
_T = TypeVar("_T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Gone(Exception):
    """The client closed its connection."""


class _Handlers:
    """One method for each kind of path."""

    def __init__(self, service: Service) -> None:
        self._service, self._repository, self._limits = service, service.repository, service.limits

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._repository.ready else 400)

    async def model_ready(self, request: Request) -> Response:
        try:
            ready = self._model(request).batcher.ready
        except UnknownModel as error:
            return _json({"error": told(error)}, 400)  # Triton's clients take 400 for "not ready"
        return Response(status_code=200 if ready else 400)

    async def server(self, request: Request) -> Response:
        return _json(server_metadata(self._service.has_shared_memory))

    async def metadata(self, request: Request) -> Response:
        return _json(model_metadata(self._model(request)))

    async def config(self, request: Request) -> Response:
        return _json(model_config(self._model(request)))

    async def stats(self, request: Request) -> Response:
        name, version = request.path_params.get("model"), request.path_params.get("version")
        models = self._repository.models(name, version) if name else self._repository.loaded()
        return _json({"model_stats": [model_statistics(model) for model in models]})

    async def index(self, request: Request) -> Response:
        ready = (await self._object(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InputError("ready is true or false", got=type(ready).__name__)
        rows = await self._repository.listed(ready)
        return _json([{name: value for name, value in row.items() if value} for row in rows])

    async def load(self, request: Request) -> Response:
        if (await self._object(request)).get("parameters"):
            raise Unsupported("a model's configuration or files cannot be given while loading")
        await self._repository.load(request.path_params["model"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._object(request)
        await self._repository.unload(request.path_params["model"])
        return Response()

    async def infer(self, request: Request) -> Response:
        model = self._model(request)
        body = await read_body(request, self._limits.body, self._limits.body_seconds)
        current().end("read")
        header = request.headers.get("inference-header-content-length")
        asked = read_request(body, header, model.batcher.inputs, self._service.shared())
        current().end("parse")
        answer = await _while_connected(request, self._service.infer(model, asked))
        reply, length = write_reply(answer)
        reply, headers = await compressed(reply, request.headers.get("accept-encoding", ""))
        if length is not None:
            headers["Inference-Header-Content-Length"] = str(length)
        media = "application/json" if length is None else "application/octet-stream"
        return Response(reply, media_type=media, headers=headers)

    async def classify(self, request: Request) -> Response:
        """An image (the body itself, or a form's field ``image``) → its classes or boxes."""
        model, count = self._model(request), _top_k(request)
        file = await self._image(request)
        current().end("parse")
        return _json(await _while_connected(request, self._service.classify(model, file, count)))

    async def _image(self, request: Request) -> bytes:
        body = await self._body(request)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return body
        # The body is here already, bounded: the form is parsed from it.
        request._body = body
        async with request.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise InputError("the form has no file 'image'", fix="curl -F image=@FILE …")
            return await image.read()

    async def unsupported(self, request: Request) -> Response:
        raise Unsupported("this extension is not supported")

    def _model(self, request: Request) -> Model:
        return self._repository.model(request.path_params["model"], request.path_params.get("version"))

    async def _object(self, request: Request) -> dict[str, Any]:
        """The body of all but inference: a JSON object, or nothing."""
        body = await self._body(request)
        try:
            fields = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError as error:
            raise InputError("the request is not JSON", got=str(error)) from error
        if not isinstance(fields, dict):
            raise InputError("the request is not a JSON object")
        return fields

    async def _body(self, request: Request) -> bytes:
        body = bytes(await read_body(request, self._limits.body, self._limits.body_seconds))
        current().end("read")
        return body


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", str(TOP_K))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise InputError("top_k counts classes", got=text[:20], expected="1 to 10000")
    return int(text[:9])


async def _while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """``work``, cancelled when the client goes away: a request that has not started then never runs."""
    calls: set[Callable[[], object]] = request.scope.get("extensions", {}).get(ON_DISCONNECT, {}).get("call", set())
    task, gone = asyncio.current_task(), False

    def leave() -> None:
        nonlocal gone
        gone = task is not None and task.cancel()

    calls.add(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            raise _Gone from None
        raise
    finally:
        calls.discard(leave)


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, _Gone):
        return Response(status_code=_GONE)
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    status, text = refusal(error, _STATUS, 500, f"{request.method} {request.url.path}")
    return _json({"error": text}, status)


def _guarded(handler: Handler, key: str | None, open_to_all: bool, local: bool) -> Handler:
    """``handler`` with its errors as replies, for those who may ask."""

    async def endpoint(request: Request) -> Response:
        if key is not None and not open_to_all and not has_key(request.headers.get("authorization", ""), key):
            return _json({"error": NO_KEY}, 401)
        if of_another_site(request.headers.get("origin"), request.headers.get("host"), local=local):
            return _json({"error": OTHER_SITE}, 403)
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - every error is a reply
            return _failed(request, error)

    return endpoint


def application(service: Service, *, key: str | None = None, local: bool = False) -> Starlette:
    """The ASGI application. With ``key``, everything but health and the page wants ``Authorization: Bearer KEY``.

    ``local``: it listens on loopback alone.
    """
    handlers, regions = _Handlers(service), RegionHandlers(service)
    get: list[tuple[str, Handler]] = [
        ("/v2/health/live", handlers.live),
        ("/v2/health/ready", handlers.ready),
        ("/v2", handlers.server),
        ("/v2/models/stats", handlers.stats),
        *_of_model("/ready", handlers.model_ready),
        *_of_model("", handlers.metadata),
        *_of_model("/config", handlers.config),
        *_of_model("/stats", handlers.stats),
        (f"{PREFIX}/status", regions.status),
        (f"{PREFIX}/region/{{region}}/status", regions.status),
    ]
    post: list[tuple[str, Handler]] = [
        *_of_model("/infer", handlers.infer),
        *_of_model("/classify", handlers.classify),
        ("/v2/repository/index", handlers.index),
        ("/v2/repository/models/{model}/load", handlers.load),
        ("/v2/repository/models/{model}/unload", handlers.unload),
        (f"{PREFIX}/unregister", regions.unregister),
        (f"{PREFIX}/region/{{region}}/register", regions.register),
        (f"{PREFIX}/region/{{region}}/unregister", regions.unregister),
    ]
    extensions = ("cudasharedmemory", "trace", "logging")
    both: list[tuple[str, Handler]] = [(f"/v2/{name}{{rest:path}}", handlers.unsupported) for name in extensions]
    for tail in ("/trace/setting", "/generate", "/generate_stream"):
        both += _of_model(tail, handlers.unsupported)
    routes = [
        Route(path, _guarded(handler, key, path.startswith("/v2/health"), local and key is None), methods=list(methods))
        # Routes are tried in turn: infer's are the first.
        for table, methods in ((post, ("POST",)), (get, ("GET",)), (both, ("GET", "POST")))
        for path, handler in table
    ]
    observed, failed = [Middleware(Observed, service.telemetry)], {HTTPException: _failed}
    app = Starlette(routes=[*routes, *page_routes()], middleware=observed, exception_handlers=failed)
    app.router.redirect_slashes = False  # clients of the protocol follow no redirects
    return app


def _of_model(tail: str, handler: Handler) -> list[tuple[str, Handler]]:
    return [(f"/v2/models/{{model}}{tail}", handler), (f"/v2/models/{{model}}/versions/{{version}}{tail}", handler)]
