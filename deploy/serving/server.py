"""The HTTP server: opens its ports, loads the models, drains them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from deploy.errors import MachineError
from deploy.serving.metrics import by_port, metrics_application
from deploy.serving.repository import Repository
from deploy.serving.watch import Watcher

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@dataclass(frozen=True)
class Reload:
    """When the folder of the models is looked at.

    Attributes:
        seconds: between two looks; None: only at SIGHUP.
        exit_on_error: a model that cannot be loaded at the start ends it.
    """

    seconds: float | None = None
    exit_on_error: bool = True


class _Server(uvicorn.Server):
    """uvicorn, whose signals first drain the models: accepted requests are answered, then the ports close."""

    def __init__(
        self, config: uvicorn.Config, repository: Repository, ready: Callable[[], None], reload: Reload
    ) -> None:
        super().__init__(config)
        self._repository, self._ready, self._reload = repository, ready, reload
        self._watcher, self._terminal = Watcher(repository, reload.seconds), _in_terminal()
        self.answered = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        await self._repository.start(exit_on_error=self._reload.exit_on_error)
        self._ready()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with _hangups(self._hung_up):
            await super().serve(sockets)

    def _hung_up(self) -> None:
        if self._terminal and not _in_terminal():
            self.should_exit = True
        else:
            self._watcher.tell()

    async def main_loop(self) -> None:
        watching = asyncio.create_task(self._watcher.run())
        await super().main_loop()
        watching.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.answered = await self._repository.drain()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _hangups(told: Callable[[], None]) -> Iterator[None]:
    """Calls ``told`` at SIGHUP, on systems that have it."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(hangup, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(hangup)


def _in_terminal() -> bool:
    """Whether it was started from a terminal that is still there: the same signal says that one was closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def serve(
    app: ASGIApp,
    repository: Repository,
    *,
    host: str,
    port: int,
    metrics_port: int | None,
    limit: float,
    ready: Callable[[list[int]], None],
    reload: Reload | None = None,
) -> bool:
    """Serve until SIGINT or SIGTERM; whether every accepted request was answered.

    Args:
        app: from :func:`deploy.serving.http.application`, over the same ``repository``.
        repository: loaded here, once the port is open: until then readiness says no.
        host, port: where to listen; port 0 takes a free one.
        metrics_port: of ``/metrics`` on the same host; None for no metrics.
        limit: seconds for connections to close after the models are drained.
        ready: called with the port, and that of the metrics, when all models are loaded.
        reload: when the folder is looked at; by default at SIGHUP alone.

    Raises:
        MachineError: a port cannot be opened.
        DeployError: a model cannot be loaded.
    """
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(_open(host, port, "--http-port"))]
        if metrics_port is not None:
            listening.append(stack.enter_context(_open(host, metrics_port, "--metrics-port")))
            app = by_port(app, _port(listening[1]), metrics_application(repository))
        server = _Server(
            _config(app, limit), repository, partial(ready, [_port(one) for one in listening]), reload or Reload()
        )
        # uvicorn repeats the signal that stopped it, after it has stopped.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(listening))
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
    # h11 bounds a request's head (64 KiB); httptools, which uvicorn would take where it is installed, does not.
    return uvicorn.Config(
        app,
        http="h11",
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(limit)),
    )
