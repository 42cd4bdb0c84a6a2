"""The socket that the server listens on, and what it logs."""

from __future__ import annotations

import asyncio
import logging
import socket

from deploy.serving.server import _listen, _wanted


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


def logged(error):
    return logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "failed", None, (type(error), error, None))


def test_a_client_that_resets_while_its_reply_is_written_is_not_logged_and_every_other_error_is():
    gone = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    assert not _wanted(logged(gone))
    assert _wanted(logged(RuntimeError("something else")))
    assert _wanted(logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "failed", None, None))
