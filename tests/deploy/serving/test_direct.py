"""Bodies that are read straight into place: whole, in order, and nothing of the next request with them."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest
import uvicorn
from starlette.requests import Request

from deploy.serving import direct
from deploy.serving.bodies import read_body
from deploy.serving.errors import TooLarge
from deploy.serving.server import _config, _listen

LIMIT = 8 << 20


async def digest(scope, receive, send):
    """Answers with the body's SHA-256 and how it came."""
    try:
        body = await read_body(Request(scope, receive), LIMIT, 10)
        answer, status = f"{hashlib.sha256(body).hexdigest()} {type(body).__name__}".encode(), 200
    except TooLarge:
        answer, status = b"too large", 413
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module", params=["asyncio", "auto"])
def address(request):
    """A server on asyncio's loop, and on uvloop where it is installed."""
    with _listen("127.0.0.1", 0) as listening:
        config = _config(digest, 1)
        config.loop = request.param
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join(30)


def body_of(size, seed):
    return random.Random(seed).randbytes(size)


def head(size, path=b"/", more=b""):
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (path, size, more)


def chunked(body, piece):
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    chunks = [b"%x\r\n%b\r\n" % (len(one), one) for one in pieces]
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def answer(reader):
    status = reader.readline()
    length = 0
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        length = int(value) if name == b"content-length" else length
    return int(status.split()[1]), reader.read(length).decode()


def exchange(address, sent, count):
    """Send the pieces, read ``count`` answers meanwhile: neither side may wait for the other."""
    with socket.create_connection(address, timeout=30) as one, one.makefile("rb") as reader:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender = threading.Thread(target=lambda: [one.sendall(piece) for piece in sent])
        sender.start()
        answers = [answer(reader) for _ in range(count)]
        sender.join()
    return answers


SIZES = [1, 100, 16_000, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 70_000, 602_112, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_body_of_any_size_arrives(address, size):
    body = body_of(size, size)
    ((status, text),) = exchange(address, [head(size) + body], 1)
    assert (status, text.split()[0]) == (200, hashlib.sha256(body).hexdigest())
    assert text.split()[1] == "memoryview"


@pytest.mark.parametrize("seed", range(8))
def test_requests_cut_anywhere_and_sent_at_once_are_answered_in_order(address, seed):
    draw = random.Random(seed)
    bodies = [body_of(draw.choice([0, 1, 50, 20_000, 300_000]), seed * 100 + turn) for turn in range(12)]
    kinds = [draw.choice(["length", "chunks"]) if body else "length" for body in bodies]
    stream = b"".join(
        head(len(body)) + body if kind == "length" else chunked(body, 7000) for body, kind in zip(bodies, kinds)
    )
    cuts = sorted(draw.sample(range(1, len(stream)), 40))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)])]
    answers = exchange(address, pieces, len(bodies))
    assert [text.split()[0] for _, text in answers] == [hashlib.sha256(body).hexdigest() for body in bodies]


def test_a_body_above_the_limit_is_refused_before_it_is_sent(address):
    assert exchange(address, [head(LIMIT + 1)], 1) == [(413, "too large")]


def test_a_chunked_body_above_the_limit_is_refused_while_it_comes(address):
    assert exchange(address, [chunked(b"x" * (LIMIT + 1), 1 << 20)], 1)[0][0] == 413


def test_a_client_that_asks_first_is_told_to_go_on(address):
    body = body_of(100_000, 0)
    with socket.create_connection(address, timeout=10) as one, one.makefile("rb") as reader:
        one.sendall(head(len(body), more=b"Expect: 100-continue\r\n"))
        assert reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert reader.readline() == b"\r\n"
        one.sendall(body)
        assert answer(reader)[1].split()[0] == hashlib.sha256(body).hexdigest()


def test_what_is_longer_than_a_whole_body_may_be_comes_in_pieces(address, monkeypatch):
    monkeypatch.setattr(direct, "WHOLE_BYTES", 1000)
    body = body_of(100_000, 1)
    assert exchange(address, [head(len(body)) + body], 1)[0][1] == f"{hashlib.sha256(body).hexdigest()} bytes"


def test_a_declared_body_takes_no_memory_before_it_comes(address):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before, idle = resident(), []
    for _ in range(40):
        one = socket.create_connection(address, timeout=10)
        one.sendall(head(LIMIT))
        idle.append(one)
    asyncio.run(asyncio.sleep(0.3))
    grown = resident() - before
    for one in idle:
        one.close()
    assert grown < 4 * LIMIT  # 40 would be 320 MB
