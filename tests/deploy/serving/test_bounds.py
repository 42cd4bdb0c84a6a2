"""How many connections there are, and clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from deploy.errors import MachineError
from deploy.serving.bounds import Bound, Stalls, allow_files, unsent


class Open(asyncio.Protocol):
    """As uvicorn's protocols: it is in ``connections`` while it is open."""

    def __init__(self, server_state):
        self.connections = server_state.connections

    def connection_made(self, transport):
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, exc):
        self.connections.discard(self)


@contextlib.asynccontextmanager
async def listening(make):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_a_connection_beyond_the_bound_is_told_so_and_the_next_after_one_has_gone_is_not():
    async def check():
        state = SimpleNamespace(connections=set())
        bound = Bound(Open, 1)
        async with listening(lambda: bound(server_state=state)) as address:
            _, first = await asyncio.open_connection(*address)
            await until(lambda: state.connections)
            reader, second = await asyncio.open_connection(*address)
            second.write(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
            reply = await reader.read()
            assert reply.startswith(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n")
            assert reply.endswith(b'{"error":"the server has too many connections"}')
            second.close()
            first.close()
            await until(lambda: not state.connections)
            _, third = await asyncio.open_connection(*address)
            await until(lambda: state.connections)
            third.close()
            await until(lambda: not state.connections)

    asyncio.run(asyncio.wait_for(check(), 30))


def test_refused_connections_are_bounded_too():
    async def check():
        bound = Bound(Open, 0)
        async with listening(lambda: bound(server_state=SimpleNamespace(connections=set()))) as address:
            clients = [await asyncio.open_connection(*address) for _ in range(70)]
            replies = await asyncio.gather(*(reader.read() for reader, _ in clients), return_exceptions=True)
            for _, writer in clients:
                writer.close()
        told = [reply for reply in replies if isinstance(reply, bytes) and reply]
        assert len(told) == 64

    asyncio.run(asyncio.wait_for(check(), 30))


class Deaf:
    """A transport whose buffer is what the test says."""

    def __init__(self):
        self.size, self.aborted = 0, False
        self.transport = self

    def get_write_buffer_size(self):
        return self.size

    def abort(self):
        self.aborted = True


def test_a_client_that_reads_nothing_for_so_long_is_closed_and_one_that_reads_slowly_is_not():
    stalls, deaf, slow, idle = Stalls(30), Deaf(), Deaf(), Deaf()
    for second in range(0, 32):
        deaf.size, slow.size = 1000, 1000 - second
        stalls.sweep([deaf, slow, idle], float(second))
        assert deaf.aborted == (second > 30)
    assert not slow.aborted
    assert not idle.aborted
    assert unsent([deaf])
    assert not unsent([idle])


def test_a_reply_that_nobody_reads_does_not_stay():
    async def check():
        state, stalls = SimpleNamespace(connections=set()), Stalls(0.05)
        loop = asyncio.get_running_loop()
        async with listening(lambda: Open(state)) as address:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.setblocking(False)
                await loop.sock_connect(deaf, address)
                await until(lambda: state.connections)
                (connection,) = state.connections
                connection.transport.write(bytes(64 << 20))
                assert unsent(state.connections)
                while state.connections:
                    stalls.sweep(state.connections, loop.time())
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(check(), 30))


def test_the_limit_of_open_files_is_raised_or_said():
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 600))\n"
        "from deploy.serving.bounds import allow_files\n"
        "allow_files(300); print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try: allow_files(1000)\nexcept Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "(556, 600)"
    assert "1000 connections need 1256 open files (got a limit of 600)" in out
    assert "--max-connections 344" in out


def test_a_limit_that_suffices_stays(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1256, 1256))
    allow_files(1000)
    with pytest.raises(MachineError):
        allow_files(1001)
