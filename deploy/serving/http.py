"""The Open Inference Protocol (KServe v2) over HTTP with Triton's extensions."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.errors import DeployError, InputError
from deploy.runtime.base import Array
from deploy.serving.batcher import Batcher
from deploy.serving.bodies import SlowBody, compressed, read_body
from deploy.serving.descriptions import model_config, model_metadata, server_metadata
from deploy.serving.errors import QueueFull, TimedOut, TooLarge, Unavailable, UnknownModel, Unsupported
from deploy.serving.images import TOP_K, answers, prepare
from deploy.serving.messages import InferRequest, asked_of, read_request, write_reply
from deploy.serving.repository import VERSION, Repository

_LOG = logging.getLogger("deploy.serving")
# The first that fits; anything else is a bug, of which the client learns nothing more.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModel, 404),
    (TooLarge, 413),
    (SlowBody, 408),
    (Unsupported, 501),
    (QueueFull, 503),
    (TimedOut, 503),
    (Unavailable, 503),
    (InputError, 400),
)
_GONE = 499  # nginx's "client closed request"; nobody reads it
_T = TypeVar("_T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Bytes of a body (decompressed too), seconds until it is there, pixels of an image."""

    body: int = 64 << 20
    body_seconds: float = 30.0
    pixels: int = 50_000_000
    images: int = 64


class _Gone(Exception):
    """The client closed its connection."""


class Service:
    """The handlers. Images are decoded by ``decoders`` threads, so that the loop never waits for them."""

    def __init__(self, repository: Repository, limits: Limits, decoders: int) -> None:
        self._repository, self._limits = repository, limits
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._repository.ready else 400)

    async def model_ready(self, request: Request) -> Response:
        try:
            ready = self._model(request)[1].ready
        except UnknownModel:
            ready = False
        return Response(status_code=200 if ready else 400)

    async def server(self, request: Request) -> Response:
        return _json(server_metadata())

    async def metadata(self, request: Request) -> Response:
        return _json(model_metadata(*self._model(request)))

    async def config(self, request: Request) -> Response:
        return _json(model_config(*self._model(request)))

    async def stats(self, request: Request) -> Response:
        models = dict([self._model(request)]) if "model" in request.path_params else self._repository.loaded()
        rows = [{"name": name, "version": VERSION, **batcher.statistics.as_dict()} for name, batcher in models.items()]
        return _json({"model_stats": rows})

    async def index(self, request: Request) -> Response:
        body = await self._body(request)
        try:
            fields = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError as error:
            raise InputError("the request is not JSON", got=str(error)) from error
        if not isinstance(fields, dict):
            raise InputError("the request is not a JSON object")
        return _json(self._repository.index(bool(fields.get("ready"))))

    async def load(self, request: Request) -> Response:
        body = await self._body(request)
        if body and b'"parameters"' in body:
            raise Unsupported("a model's configuration or files cannot be given while loading")
        await self._repository.load(request.path_params["model"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._body(request)
        await self._repository.unload(request.path_params["model"])
        return Response()

    async def infer(self, request: Request) -> Response:
        name, batcher = self._model(request)
        body = await self._body(request)
        asked = read_request(body, request.headers.get("inference-header-content-length"), batcher.inputs)
        outputs = asked_of(asked, batcher.runner.outputs)
        answer = await _while_connected(request, self._run(batcher, asked))
        head = {"model_name": name, "model_version": VERSION, **({"id": asked.id} if asked.id else {})}
        labels = batcher.runner.manifest.labels if batcher.runner.manifest else None
        reply, length = write_reply(head, answer, outputs, labels)
        reply, headers = compressed(reply, request.headers.get("accept-encoding", ""))
        if length is not None:
            headers["Inference-Header-Content-Length"] = str(length)
        media = "application/json" if length is None else "application/octet-stream"
        return Response(reply, media_type=media, headers=headers)

    async def _run(self, batcher: Batcher, asked: InferRequest) -> dict[str, Array]:
        feeds = asked.feeds
        spec = batcher.inputs[0]
        files = feeds.get(spec.name)
        if len(feeds) == 1 and files is not None and files.dtype == object and spec.dtype != "object":
            feeds, _ = await self._prepared(batcher, [bytes(item) for item in files.reshape(-1)])
        return await batcher.infer(feeds, priority=asked.priority, timeout=asked.timeout)

    async def _prepared(self, batcher: Batcher, files: list[bytes]) -> tuple[dict[str, Array], list[Any]]:
        most = min(self._limits.images, batcher.max_batch)
        if not 1 <= len(files) <= most:
            raise InputError("the request's images do not fit", got=len(files), expected=f"1 to {most}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, prepare, batcher.runner, files, self._limits.pixels)

    async def classify(self, request: Request) -> Response:
        """An image (the body itself, or a form's field ``image``) → its classes or boxes."""
        name, batcher = self._model(request)
        count = _top_k(request)
        file = await self._image(request)
        answer = await _while_connected(request, self._classified(batcher, file, count))
        return _json({"model_name": name, "model_version": VERSION, **answer})

    async def _classified(self, batcher: Batcher, file: bytes, count: int) -> dict[str, Any]:
        feeds, fits = await self._prepared(batcher, [file])
        outputs = await batcher.infer(feeds)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._decoders, answers, batcher.runner, outputs, fits, count)
        return found[0]

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

    def _model(self, request: Request) -> tuple[str, Batcher]:
        name = request.path_params["model"]
        return name, self._repository.batcher(name, request.path_params.get("version"))

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._limits.body, self._limits.body_seconds)


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", str(TOP_K))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise InputError("top_k counts classes", got=text[:20], expected="1 to 10000")
    return int(text[:9])


async def _while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """``work``, cancelled when the client goes away: a request that has not started then never runs."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, _Gone):
        return Response(status_code=_GONE)
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            if isinstance(error, DeployError) and error.details:
                _LOG.error("%s: %s", error.headline, "; ".join(error.details))
            return _json({"error": getattr(error, "headline", str(error))}, status)
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _json({"error": "internal error"}, 500)


def _guarded(handler: Handler, key: str | None, open_to_all: bool) -> Handler:
    """``handler`` with its errors as replies, behind the API key where there is one."""

    async def endpoint(request: Request) -> Response:
        if key is not None and not open_to_all and not _has_key(request, key):
            return _json({"error": "the API key is missing or wrong"}, 401)
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - every error is a reply
            return _failed(request, error)

    return endpoint


def _has_key(request: Request, key: str) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode(), key.encode())


def application(
    repository: Repository, *, limits: Limits | None = None, key: str | None = None, decoders: int = 2
) -> Starlette:
    """The ASGI application. With ``key``, everything but health wants ``Authorization: Bearer KEY``."""
    service = Service(repository, limits or Limits(), decoders)
    get: list[tuple[str, Handler]] = [
        ("/v2/health/live", service.live),
        ("/v2/health/ready", service.ready),
        ("/v2", service.server),
        ("/v2/models/stats", service.stats),
        *_of_model("/ready", service.model_ready),
        *_of_model("", service.metadata),
        *_of_model("/config", service.config),
        *_of_model("/stats", service.stats),
    ]
    post: list[tuple[str, Handler]] = [
        *_of_model("/infer", service.infer),
        *_of_model("/classify", service.classify),
        ("/v2/repository/index", service.index),
        ("/v2/repository/models/{model}/load", service.load),
        ("/v2/repository/models/{model}/unload", service.unload),
    ]
    extensions = ("systemsharedmemory", "cudasharedmemory", "trace", "logging")
    both: list[tuple[str, Handler]] = [(f"/v2/{name}{{rest:path}}", service.unsupported) for name in extensions]
    for tail in ("/trace/setting", "/generate", "/generate_stream"):
        both += _of_model(tail, service.unsupported)
    routes = [
        Route(path, _guarded(handler, key, path.startswith("/v2/health")), methods=list(methods))
        # Routes are tried in turn: infer's are the first.
        for table, methods in ((post, ("POST",)), (get, ("GET",)), (both, ("GET", "POST")))
        for path, handler in table
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _failed})


def _of_model(tail: str, handler: Handler) -> list[tuple[str, Handler]]:
    return [(f"/v2/models/{{model}}{tail}", handler), (f"/v2/models/{{model}}/versions/{{version}}{tail}", handler)]
