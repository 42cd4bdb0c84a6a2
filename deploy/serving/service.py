"""What the server does with a request that has been read, whichever protocol it came in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.serving.batcher import Batcher
from deploy.serving.errors import Unavailable
from deploy.serving.images import answers, prepare
from deploy.serving.messages import Asked, InferReply, InferRequest, asked_of
from deploy.serving.repository import Model, Repository
from deploy.serving.tensors import classes

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Bytes of a body (decompressed too), seconds until it is there, pixels of an image."""

    body: int = 64 << 20
    body_seconds: float = 30.0
    pixels: int = 50_000_000
    images: int = 64


def _on_current(
    work: Callable[Concatenate[Service, Model, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Service, Model, _P], Coroutine[Any, Any, _T]]:
    """``work``, all of it again where its model was replaced before it could be asked."""

    @wraps(work)
    async def again(self: Service, model: Model, /, *args: _P.args, **options: _P.kwargs) -> _T:
        while True:
            try:
                return await work(self, model, *args, **options)
            except Unavailable:
                current = self.repository.again(model)
                if current.batcher is model.batcher:
                    raise
                model = current

    return again


class Service:
    """Inference on the models of ``repository``. Images are decoded by ``decoders`` threads, never by the loop."""

    def __init__(self, repository: Repository, limits: Limits | None = None, decoders: int = 2) -> None:
        self.repository, self.limits = repository, limits or Limits()
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    @_on_current
    async def infer(self, model: Model, request: InferRequest) -> InferReply:
        """Tensors as the model has them; or, for its one input, BYTES with an encoded image in each row.

        Raises:
            DeployError: as :meth:`Batcher.infer`; or an output that the model has not, or no image.
        """
        asked = asked_of(request, model.batcher.runner.outputs)
        feeds = await self._feeds(model.batcher, request)
        outputs = await model.batcher.infer(feeds, priority=request.priority, timeout=request.timeout)
        results = [(one, _as_asked(one, outputs[one.name], model.batcher)) for one in asked]
        return InferReply(model.name, model.version, request.id, results)

    async def _feeds(self, batcher: Batcher, request: InferRequest) -> dict[str, Array]:
        spec = batcher.inputs[0]
        files = request.feeds.get(spec.name)
        if len(request.feeds) > 1 or files is None or files.dtype != object or spec.dtype == "object":
            return request.feeds
        return (await self._prepared(batcher, [bytes(item) for item in files.reshape(-1)]))[0]

    @_on_current
    async def classify(self, model: Model, file: bytes, count: int) -> dict[str, Any]:
        """One encoded image → ``{"predictions": […]}``, the ``count`` most probable, or ``{"detections": […]}``.

        The model's name and version are with them.

        Raises:
            DeployError: as :meth:`Batcher.infer`; or no image, or a model that gives neither.
        """
        feeds, fits = await self._prepared(model.batcher, [file])
        outputs = await model.batcher.infer(feeds)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._decoders, answers, model.batcher.runner, outputs, fits, count)
        return {"model_name": model.name, "model_version": model.version, **found[0]}

    async def _prepared(self, batcher: Batcher, files: list[bytes]) -> tuple[dict[str, Array], list[Any]]:
        most = min(self.limits.images, batcher.max_batch)
        if not 1 <= len(files) <= most:
            raise InputError("the request's images do not fit", got=len(files), expected=f"1 to {most}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, prepare, batcher.runner, files, self.limits.pixels)


def _as_asked(asked: Asked, array: Array, batcher: Batcher) -> Array:
    if not asked.classes:
        return array
    manifest = batcher.runner.manifest
    return classes(array, asked.classes, manifest.labels if manifest else None)
