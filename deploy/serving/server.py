"""The server: opens its ports, loads the models, drains them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from deploy.errors import MachineError
from deploy.serving.bounds import Bound, Stalls, allow_files, unsent
from deploy.serving.connection import Connection
from deploy.serving.direct import WHOLE_BYTES
from deploy.serving.drain import GRACE_SECONDS, Drain
from deploy.serving.gate import Gate
from deploy.serving.memory import keep_freed_memory
from deploy.serving.metrics import by_port, metrics_application
from deploy.serving.repository import Repository
from deploy.serving.telemetry import Telemetry
from deploy.serving.watch import Hangups, Reload, Watcher

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from deploy.serving.grpc_server import GrpcServer

# Clients keep connections between requests, and some take a closed one for an error: as long as nginx.
_IDLE_SECONDS = 75
# Nothing of a reply goes for so long: its client does not read.
REPLY_SECONDS = 30.0
_TICKS_A_SECOND = 10  # of uvicorn's main loop
# How long a thread that comes back from the network waits for Python's lock before the event loop has to hand it over.
# The loop lets go of it often, but has it again before the other wakes: at CPython's 5 ms instances stood still.
SWITCH_SECONDS = 20e-6


@dataclass
class Ports:
    """Where the server listens; None for what it does without."""

    http: int
    metrics: int | None = None
    grpc: int | None = None


class _Server(uvicorn.Server):
    """uvicorn, whose signals first drain: accepted requests are answered, then models and ports close."""

    def __init__(
        self,
        config: uvicorn.Config,
        repository: Repository,
        grpc: GrpcServer | None,
        gate: Gate,
        drain: Drain,
        ready: Callable[[], None],
        reload: Reload,
    ) -> None:
        super().__init__(config)
        self._repository, self._grpc, self._gate, self._drain = repository, grpc, gate, drain
        self._ready, self._stalls = ready, Stalls(REPLY_SECONDS)
        self._reload, self._watcher = reload, Watcher(repository, reload.seconds)
        self._hangups = Hangups(self._watcher.tell, self._terminal_closed)
        self.answered = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, within the limit even where a thread or the loop hangs; the second ends at once."""
        if self.should_exit:
            os.write(2, b"stopped at once: some requests may not have been answered\n")
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
        self._drain.begin()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        try:
            if self._grpc is not None:
                self._grpc.port = await self._grpc.start()
            await self._repository.start(exit_on_error=self._reload.exit_on_error, stops=lambda: self.should_exit)
        except Exception:
            await self.shutdown(sockets)
            raise
        if not self.should_exit:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_SECOND == 0:
            self._stalls.sweep(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self._hangups:
            await super().serve(sockets)

    def _terminal_closed(self) -> None:
        self.should_exit = True
        self._drain.begin()

    async def main_loop(self) -> None:
        watching = asyncio.create_task(self._watcher.run())
        await super().main_loop()
        watching.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        done, called = await asyncio.gather(self._gate.close(self._drain.left()), self._stop_grpc())
        drained = await self._repository.drain(self._drain.left())
        # uvicorn closes what is idle, and waits until the replies of the others have gone.
        self.config.timeout_graceful_shutdown = max(GRACE_SECONDS / 2, self._drain.left())  # type: ignore[assignment]
        await super().shutdown(sockets)
        self.answered = done and called and drained and not unsent(self.server_state.connections)

    async def _stop_grpc(self) -> bool:
        return self._grpc is None or await self._grpc.stop(self._drain.left())


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
    telemetry: Telemetry,
    reload: Reload | None = None,
    most_connections: int = 1000,
    most_body: int = WHOLE_BYTES,
    overdue: Callable[[], None] | None = None,
) -> bool:
    """Serve until SIGINT or SIGTERM; whether every accepted request was answered.

    Args:
        app: from :func:`deploy.serving.http.application`, over the same ``repository``.
        repository: loaded here, once the port is open: until then readiness says no.
        host, port: where to listen; port 0 takes a free one.
        metrics_port: of ``/metrics`` on the same host; None for no metrics.
        grpc: over the same ``repository``; None for HTTP alone.
        limit: seconds from the first signal until all accepted requests are answered and their replies have gone.
        ready: called with the ports when all models are loaded.
        telemetry: what the application and gRPC count, for the metrics.
        reload: when the folder is looked at; by default at SIGHUP alone.
        most_connections: clients beyond them get 503.
        most_body: bytes of a body for which memory is taken as it comes; the application refuses longer ones.
        overdue: called in a thread, shortly after the limit, where something hangs and this function cannot return.

    Raises:
        MachineError: a port cannot be opened, or so many connections cannot.
        DeployError: a model cannot be loaded.
    """
    keep_freed_memory()
    allow_files(most_connections)
    gate, drain = Gate(app), Drain(limit, overdue or _hangs)
    app = gate
    with contextlib.ExitStack() as stack:
        stack.callback(drain.end)
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_SECONDS)
        listening = [stack.enter_context(_open(host, port, "--http-port"))]
        ports = Ports(_port(listening[0]))
        if metrics_port is not None:
            listening.append(stack.enter_context(_open(host, metrics_port, "--metrics-port")))
            ports.metrics = _port(listening[1])
            app = by_port(app, ports.metrics, metrics_application(repository, telemetry))
        if grpc is not None and grpc.port:
            _open(host, grpc.port, "--grpc-port").close()  # gRPC would say less, and on several lines
        config = _config(app, limit)
        config.load()
        logging.getLogger("uvicorn.error").addFilter(_wanted)
        config.http_protocol_class = Bound(partial(Connection, longest=most_body), most_connections)  # type: ignore[assignment]

        def announce() -> None:
            ready(replace(ports, grpc=grpc.port if grpc else None))

        server = _Server(config, repository, grpc, gate, drain, announce, reload or Reload())
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


def _wanted(record: logging.LogRecord) -> bool:
    """Not: a reply to a client that has reset its connection in this moment, which uvloop makes an exception."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, RuntimeError) and "the handler is closed" in str(error))


def _hangs() -> None:
    os.write(2, b"something hangs: some requests were not answered\n")
    os._exit(1)


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
