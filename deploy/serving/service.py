"""What the server does with a request that has been read, whichever protocol it came in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.serving.batcher import Batcher
from deploy.serving.errors import Unavailable
from deploy.serving.images import answers, prepare
from deploy.serving.messages import Asked, InferReply, InferRequest, asked_of
from deploy.serving.record import current
from deploy.serving.repository import Model, Repository
from deploy.serving.shared_memory import Access, Regions
from deploy.serving.telemetry import Telemetry
from deploy.serving.tensors import classes, to_bytes

_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Bytes of a body (decompressed too), seconds until it is there, pixels of an image."""

    body: int = 64 << 20
    body_seconds: float = 30.0
    pixels: int = 50_000_000
    images: int = 64


class Service:
    """Inference on the models of ``repository``. Images are decoded by ``decoders`` threads, never by the loop.

    ``regions`` None: no shared memory.
    """

    def __init__(
        self,
        repository: Repository,
        limits: Limits | None = None,
        decoders: int = 2,
        regions: Regions | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.repository, self.limits, self._regions = repository, limits or Limits(), regions
        self.telemetry = telemetry or Telemetry()
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    @property
    def has_shared_memory(self) -> bool:
        return self._regions is not None

    @property
    def regions(self) -> Regions:
        """Raises :class:`Unsupported` where the extension is off."""
        return self.shared().on()

    def shared(self) -> Access:
        """What one request may do with shared memory."""
        return Access(self._regions, self.limits.body)

    async def infer(self, model: Model, request: InferRequest) -> InferReply:
        """Tensors as the model has them; or, for its one input, BYTES with an encoded image in each row.

        Raises:
            DeployError: as :meth:`Batcher.infer`; or an output that the model has not or that does not fit in the
                memory for it, or no image.
        """
        current().named(request.id)
        return await self._on_current(model, partial(self._infer, request=request))

    async def _on_current(self, model: Model, work: Callable[[Model], Awaitable[_T]]) -> _T:
        """``work``, all of it again where the model was replaced before its batcher was asked."""
        while True:
            try:
                return await work(model)
            except Unavailable:
                now = self.repository.model(model.name, model.version)
                if now.batcher is model.batcher:
                    raise
                model = now

    async def _infer(self, model: Model, request: InferRequest) -> InferReply:
        record, batcher = current(), model.batcher
        record.about(model.name, model.version)
        asked = asked_of(request, batcher.runner.outputs)
        feeds = await self._feeds(batcher, request)
        outputs = await batcher.infer(feeds, priority=request.priority, timeout=request.timeout, record=record)
        record.end("handover")
        results = [(one, _as_asked(one, outputs[one.name], batcher)) for one in asked]
        for one, array in results:
            if one.memory is not None:
                one.memory.write(one.name, to_bytes(array))
        record.end("postprocess")
        return InferReply(model.name, model.version, request.id, results)

    async def _feeds(self, batcher: Batcher, request: InferRequest) -> dict[str, Array]:
        spec = batcher.inputs[0]
        files = request.feeds.get(spec.name)
        if len(request.feeds) > 1 or files is None or files.dtype != object or spec.dtype == "object":
            return request.feeds
        return (await self._prepared(batcher, [bytes(item) for item in files.reshape(-1)]))[0]

    async def classify(self, model: Model, file: bytes, count: int) -> dict[str, Any]:
        """One encoded image → ``{"predictions": […]}``, the ``count`` most probable, or ``{"detections": […]}``.

        Raises:
            DeployError: as :meth:`Batcher.infer`; or no image, or a model that gives neither.
        """
        return await self._on_current(model, partial(self._classify, file=file, count=count))

    async def _classify(self, model: Model, file: bytes, count: int) -> dict[str, Any]:
        record = current()
        record.about(model.name, model.version)
        feeds, fits = await self._prepared(model.batcher, [file])
        outputs = await model.batcher.infer(feeds, record=record)
        record.end("handover")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._decoders, answers, model.batcher.runner, outputs, fits, count)
        record.end("postprocess")
        return found[0]

    async def _prepared(self, batcher: Batcher, files: list[bytes]) -> tuple[dict[str, Array], list[Any]]:
        most = min(self.limits.images, batcher.max_batch)
        if not 1 <= len(files) <= most:
            raise InputError("the request's images do not fit", got=len(files), expected=f"1 to {most}")
        loop = asyncio.get_running_loop()
        with batcher.place(current()):  # a full queue refuses before the work, not after it
            prepared = await loop.run_in_executor(self._decoders, prepare, batcher.runner, files, self.limits.pixels)
        current().end("preprocess")
        return prepared


def _as_asked(asked: Asked, array: Array, batcher: Batcher) -> Array:
    if not asked.classes:
        return array
    manifest = batcher.runner.manifest
    return classes(array, asked.classes, manifest.labels if manifest else None)
