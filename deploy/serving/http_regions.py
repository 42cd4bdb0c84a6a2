"""The system shared memory extension over HTTP."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from deploy.errors import InputError
from deploy.serving.bodies import Body, read_body
from deploy.serving.service import Service

PREFIX = "/v2/systemsharedmemory"


class RegionHandlers:
    """One method for each kind of path; a path without ``region`` means all."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: Request) -> Response:
        rows = self._service.regions.status(request.path_params.get("region", ""))
        return Response(orjson.dumps(rows), media_type="application/json")

    async def register(self, request: Request) -> Response:
        regions, limits = self._service.regions, self._service.limits
        key, offset, size = _asked(await read_body(request, limits.body, limits.body_seconds))
        regions.register(request.path_params["region"], key, offset, size)
        return Response()

    async def unregister(self, request: Request) -> Response:
        self._service.regions.unregister(request.path_params.get("region", ""))
        return Response()


def _asked(body: Body) -> tuple[str, int, int]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError("the request is not JSON", got=str(error)) from error
    fields = fields if isinstance(fields, dict) else {}
    for name in ("key", "byte_size"):
        if name not in fields:
            raise InputError(f"Shared memory register request has no '{name}' field")
    key, offset, size = fields["key"], fields.get("offset", 0), fields["byte_size"]
    if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
        raise InputError("a region has a text as key, and counts as offset and byte_size")
    return key, offset, size
