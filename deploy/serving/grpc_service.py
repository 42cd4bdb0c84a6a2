"""What each method of the gRPC services does: a message in, a message out."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import ParseDict

from deploy.serving.descriptions import model_config, model_metadata, model_statistics, server_metadata
from deploy.serving.errors import UnknownModel, Unsupported
from deploy.serving.grpc_messages import read_message, write_message
from deploy.serving.protobuf import message
from deploy.serving.record import current
from deploy.serving.repository import Model
from deploy.serving.service import Service


def _reply(name: str, **fields: Any) -> Any:
    return message(f"inference.{name}Response")(**fields)


def _document(name: str, document: dict[str, Any]) -> Any:
    """The reply that holds what HTTP answers, but for fields that gRPC's messages have not."""
    return ParseDict(document, _reply(name), ignore_unknown_fields=True)


class Methods:
    """Named as the protocol's methods, in Python's spelling. Each raises what :class:`Service` raises."""

    def __init__(self, service: Service) -> None:
        self._service, self._repository = service, service.repository

    async def check(self, request: Any) -> Any:
        """grpc.health.v1: ready or not, whatever service is meant, as Triton answers it."""
        made = message("grpc.health.v1.HealthCheckResponse")
        return made(status="SERVING" if self._repository.ready else "NOT_SERVING")

    async def server_live(self, request: Any) -> Any:
        return _reply("ServerLive", live=True)

    async def server_ready(self, request: Any) -> Any:
        return _reply("ServerReady", ready=self._repository.ready)

    async def model_ready(self, request: Any) -> Any:
        try:
            ready = self._model(request).batcher.ready
        except UnknownModel:
            ready = False
        return _reply("ModelReady", ready=ready)

    async def server_metadata(self, request: Any) -> Any:
        return _document("ServerMetadata", server_metadata(self._service.has_shared_memory))

    async def model_metadata(self, request: Any) -> Any:
        return _document("ModelMetadata", model_metadata(self._model(request)))

    async def model_config(self, request: Any) -> Any:
        return _document("ModelConfig", {"config": model_config(self._model(request))})

    async def model_statistics(self, request: Any) -> Any:
        models = self._repository.models(request.name, request.version) if request.name else self._repository.loaded()
        return _document("ModelStatistics", {"model_stats": [model_statistics(model) for model in models]})

    async def model_infer(self, request: Any) -> Any:
        model = self._repository.model(request.model_name, request.model_version)
        asked = read_message(request, self._service.shared())
        current().end("parse")
        return write_message(await self._service.infer(model, asked))

    async def repository_index(self, request: Any) -> Any:
        return _document("RepositoryIndex", {"models": await self._repository.listed(request.ready)})

    async def repository_model_load(self, request: Any) -> Any:
        if request.parameters:
            raise Unsupported("a model's configuration or files cannot be given while loading")
        await self._repository.load(request.model_name)
        return _reply("RepositoryModelLoad")

    async def repository_model_unload(self, request: Any) -> Any:
        await self._repository.unload(request.model_name)
        return _reply("RepositoryModelUnload")

    async def system_shared_memory_status(self, request: Any) -> Any:
        rows = self._service.regions.status(request.name)
        return _document("SystemSharedMemoryStatus", {"regions": {row["name"]: row for row in rows}})

    async def system_shared_memory_register(self, request: Any) -> Any:
        self._service.regions.register(request.name, request.key, request.offset, request.byte_size)
        return _reply("SystemSharedMemoryRegister")

    async def system_shared_memory_unregister(self, request: Any) -> Any:
        self._service.regions.unregister(request.name)
        return _reply("SystemSharedMemoryUnregister")

    def _model(self, request: Any) -> Model:
        return self._repository.model(request.name, request.version)
