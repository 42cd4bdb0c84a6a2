"""The server: opens its ports, loads the models, drains them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from deploy.errors import DeployError, MachineError
from deploy.serving.connection import Connection
from deploy.serving.errors import Unavailable
from deploy.serving.memory import keep_freed_memory
from deploy.serving.metrics import by_port, metrics_application
from deploy.serving.repository import Repository

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from deploy.serving.grpc_server import GrpcServer

# Clients keep connections between requests, and some take a closed one for an error: as long as nginx.
_IDLE_SECONDS = 75


@dataclass
class Ports:
    """Where the server listens; None for what it does without."""

    http: int
    metrics: int | None = None
    grpc: int | None = None


class _Server(uvicorn.Server):
    """uvicorn, whose signals first drain the models: accepted requests are answered, then the ports close."""

    def __init__(
        self,
        config: uvicorn.Config,
        repository: Repository,
        grpc: GrpcServer | None,
        ports: Ports,
        ready: Callable[[Ports], None],
    ) -> None:
        super().__init__(config)
        self._repository, self._grpc, self._ports, self._ready = repository, grpc, ports, ready
        self.answered = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        try:
            if self._grpc is not None:
                self._ports.grpc = await self._grpc.start()
            for row in self._repository.index():
                await self._repository.load(row["name"])
        except DeployError as error:
            await self.shutdown(sockets)
            if isinstance(error, Unavailable):  # whoever starts the server may know the whole reason
                raise error.__cause__ or error from None
            raise
        self._ready(self._ports)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.answered = await self._repository.drain()
        closing = [super().shutdown(sockets)]
        if self._grpc is not None:
            closing.append(self._grpc.stop(self.config.timeout_graceful_shutdown or 0))
        await asyncio.gather(*closing)


def serve(
    app: ASGIApp,
    repository: Repository,
    *,
    host: str,
    port: int,
    metrics_port: int | None,
    grpc: GrpcServer | None = None,
    limit: float,
    ready: Callable[[Ports], None],
) -> bool:
    """Serve until SIGINT or SIGTERM; whether every accepted request was answered.

    Args:
        app: from :func:`deploy.serving.http.application`, over the same ``repository``.
        repository: loaded here, once the port is open: until then readiness says no.
        host, port: where to listen; port 0 takes a free one.
        metrics_port: of ``/metrics`` on the same host; None for no metrics.
        grpc: over the same ``repository``; None for HTTP alone.
        limit: seconds for connections to close after the models are drained.
        ready: called with the ports when all models are loaded.

    Raises:
        MachineError: a port cannot be opened.
        DeployError: a model cannot be loaded.
    """
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(_open(host, port, "--http-port"))]
        ports = Ports(_port(listening[0]))
        if metrics_port is not None:
            listening.append(stack.enter_context(_open(host, metrics_port, "--metrics-port")))
            ports.metrics = _port(listening[1])
            app = by_port(app, ports.metrics, metrics_application(repository))
        if grpc is not None and grpc.port:
            _open(host, grpc.port, "--grpc-port").close()  # gRPC would say less, and on several lines
        server = _Server(_config(app, limit), repository, grpc, ports, ready)
        # uvicorn repeats the signal that stopped it, after it has stopped.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(listening)  # on uvloop, where it is installed
    return server.answered


def _open(host: str, port: int, flag: str) -> socket.socket:
    try:
        return _listen(host, port)
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        raise MachineError(f"cannot listen on {host}:{port}", got=got, fix=f"Give another {flag}.") from error


def _port(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


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


def _config(app: ASGIApp, limit: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(limit)),
    )
