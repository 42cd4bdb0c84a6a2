"""The HTTP server: opens its port, loads the models, drains them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from deploy.errors import MachineError
from deploy.serving.errors import Unavailable
from deploy.serving.repository import Repository

if TYPE_CHECKING:
    from starlette.applications import Starlette


class _Server(uvicorn.Server):
    """uvicorn, whose signals first drain the models: accepted requests are answered, then the port closes."""

    def __init__(self, config: uvicorn.Config, repository: Repository, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._repository, self._ready = repository, ready
        self.answered = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        for row in self._repository.index():
            try:
                await self._repository.load(row["name"])
            except Unavailable as error:  # whoever starts the server may know the whole reason
                raise error.__cause__ or error from None
        self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.answered = await self._repository.drain()
        await super().shutdown(sockets)


def serve(
    app: Starlette, repository: Repository, *, host: str, port: int, limit: float, ready: Callable[[int], None]
) -> bool:
    """Serve until SIGINT or SIGTERM; whether every accepted request was answered.

    Args:
        app: from :func:`deploy.serving.http.application`, over the same ``repository``.
        repository: loaded here, once the port is open: until then readiness says no.
        host, port: where to listen; port 0 takes a free one.
        limit: seconds for connections to close after the models are drained.
        ready: called with the port when all models are loaded.

    Raises:
        MachineError: the port cannot be opened.
        DeployError: a model cannot be loaded.
    """
    try:
        listening = _listen(host, port)
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        raise MachineError(f"cannot listen on {host}:{port}", got=got, fix="Give another --http-port.") from error
    server = _Server(_config(app, limit), repository, ready)
    # uvicorn repeats the signal that stopped it, after it has stopped.
    with listening, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve([listening]))
    return server.answered


def _listen(host: str, port: int) -> socket.socket:
    """A socket named as TCP's: asyncio sets TCP_NODELAY on no other, and replies would wait 40 ms for ACKs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except BaseException:
        listening.close()
        raise
    return listening


def _config(app: Starlette, limit: float) -> uvicorn.Config:
    seconds = max(1, round(limit))
    return uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=seconds)
