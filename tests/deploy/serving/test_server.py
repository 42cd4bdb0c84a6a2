"""The socket that the server listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn

from deploy.serving.server import _config, _listen


def test_connections_send_at_once_instead_of_waiting_for_acknowledgements():
    async def check():
        seen = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            seen.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listen("127.0.0.1", 0) as listening:
            server = await asyncio.start_server(connected, sock=listening)
            _, writer = await asyncio.open_connection(*listening.getsockname())
            assert await seen != 0
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    asyncio.run(check())


def test_a_head_without_end_is_cut_off():
    async def check():
        with _listen("127.0.0.1", 0) as listening:
            server = uvicorn.Server(_config(None, 1))
            address = listening.getsockname()
            task = asyncio.create_task(server.serve([listening]))
            try:
                await asyncio.to_thread(send_headers, address)
            finally:
                server.should_exit = True
                await task

    def send_headers(address):
        with socket.create_connection(address, timeout=10) as client, pytest.raises(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"name: " + b"x" * 10_000 + b"\r\n" for _ in range(2000)))

    asyncio.run(check())
