"""The gRPC server: its port, its limits and its end. It runs on the event loop of HTTP's."""

from __future__ import annotations

import asyncio

import grpc.aio

from deploy.errors import MachineError
from deploy.serving.grpc_calls import Router
from deploy.serving.service import Service

# https://github.com/grpc/grpc/blob/master/doc/keepalive.md; milliseconds
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
    ("grpc.keepalive_time_ms", 60_000),  # a client that is gone without a word is noticed
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 1024),  # of one connection: more wait at the client
    ("grpc.http2.max_frame_size", 1 << 20),  # the default of 16 KiB costs a tenth of the time for a tensor of 600 KB
)


class GrpcServer:
    """Serves ``service`` on ``host``:``port``; port 0 takes a free one."""

    def __init__(self, service: Service, *, host: str, port: int, key: str | None = None) -> None:
        """With ``key``, everything but health wants the metadata ``authorization: Bearer KEY``."""
        self._service, self._host, self.port = service, host, port
        self._router = Router(service, key)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Answer from now on; the port. Raises :class:`MachineError` where it cannot be opened."""
        limit = ("grpc.max_receive_message_length", self._service.limits.body)
        self._server = grpc.aio.server(options=(*_OPTIONS, limit))
        self._server.add_generic_rpc_handlers((self._router,))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            port = self._server.add_insecure_port(f"{host}:{self.port}")
        except RuntimeError as error:
            what = f"cannot listen on {self._host}:{self.port}"
            raise MachineError(what, got="port in use, or no such address", fix="Give another --grpc-port.") from error
        await self._server.start()
        return int(port)

    async def stop(self, limit: float) -> bool:
        """Refuse new calls, end the streams behind their answers; what runs after ``limit`` seconds is cut off.

        Returns:
            Whether all calls had ended by then; with a limit of 0, that they were cut off as asked.
        """
        if self._server is None:
            return True
        self._router.stop()
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        await self._server.stop(limit)
        return limit == 0 or loop.time() < end
