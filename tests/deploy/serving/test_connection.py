"""Heads of requests: too long, too slow, no HTTP, or in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

import pytest
import uvicorn

from deploy.serving import connection
from deploy.serving.server import _config, _listen


async def echo_path(scope, receive, send):
    """Answers with the request's path, after its body; /now does not wait for that."""
    while scope["path"] != "/now" and (await receive()).get("more_body"):
        pass
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def against_server(client):
    """Run ``client(socket)`` in a thread against a server on a connection of its own; its result."""

    def connect(address):
        with socket.create_connection(address, timeout=10) as one:
            return client(one)

    async def check():
        with _listen("127.0.0.1", 0) as listening:
            server = uvicorn.Server(_config(echo_path, 1))
            task = asyncio.create_task(server.serve([listening]))
            try:
                return await asyncio.to_thread(connect, listening.getsockname())
            finally:
                server.should_exit = True
                await task

    return asyncio.run(check())


def until_closed(client):
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            received += chunk
    return received


def until(client, end):
    received = b""
    while not received.endswith(end):
        received += client.recv(65536)


def refusal(received):
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_a_head_without_end_is_refused_and_cut_off():
    def client(one):
        one.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                one.sendall(b"name: " + b"x" * 10_000 + b"\r\n")
            pytest.fail("20 MB of head were taken")
        return True

    assert against_server(client)


def test_a_long_head_is_told_its_limit():
    def client(one):
        for line in range(12):
            one.sendall(b"GET / HTTP/1.1\r\n" if line == 0 else b"name: " + b"x" * 7000 + b"\r\n")
            time.sleep(0.01)
        return until_closed(one)

    status, error = refusal(against_server(client))
    assert status == 431
    assert "65536" in error


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost"])
def test_a_head_that_does_not_end_in_time_is_refused(monkeypatch, start):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)

    def client(one):
        one.sendall(start)
        return until_closed(one)

    status, error = refusal(against_server(client))
    assert status == 408
    assert "0.3 s" in error


def test_a_trickled_head_has_no_more_time_than_another(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)

    def client(one):
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            one.sendall(b"GET / HTTP/1.1\r\n")
            while time.monotonic() - began < 5:
                one.sendall(b"a: b\r\n")
                time.sleep(0.05)
        return time.monotonic() - began

    assert against_server(client) < 3


def test_a_second_head_on_the_same_connection_has_its_own_time(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)

    def client(one):
        one.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        until(one, b"/first")
        time.sleep(0.6)  # idle: no head has begun
        one.sendall(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        until(one, b"/second")
        one.sendall(b"GET /third HTTP/1.1\r\n")
        return until_closed(one)

    assert refusal(against_server(client))[0] == 408


def test_a_body_that_goes_on_after_its_reply_has_an_end(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)

    def client(one):
        one.sendall(b"POST /now HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        until(one, b"/now")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 5:
                one.sendall(b"x")
                time.sleep(0.05)
        return time.monotonic() - began

    assert against_server(client) < 3


def test_a_body_that_ends_after_its_reply_leaves_the_connection_usable():
    def client(one):
        one.sendall(b"POST /now HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
        until(one, b"/now")
        one.sendall(b"abcGET /next HTTP/1.1\r\n\r\n")
        until(one, b"/next")
        return True

    assert against_server(client)


def test_an_idle_connection_is_sent_nothing_after_a_body_that_came_late(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)

    def client(one):
        one.sendall(b"POST /now HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
        until(one, b"/now")
        one.sendall(b"abc")
        time.sleep(0.8)
        one.sendall(b"GET /next HTTP/1.1\r\n\r\n")
        until(one, b"/next")
        return True

    assert against_server(client)


def test_a_large_body_that_nobody_waits_for_is_passed_over():
    def client(one):
        one.sendall(b"POST /now HTTP/1.1\r\nContent-Length: 900000\r\n\r\n")
        until(one, b"/now")
        one.sendall(b"x" * 900_000 + b"GET /next HTTP/1.1\r\n\r\n")
        until(one, b"/next")
        return True

    assert against_server(client)


def test_heads_in_pieces_and_two_at_once_are_answered_in_order():
    def client(one):
        request = b"POST /%d HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        for byte in request % 1:
            one.sendall(bytes([byte]))
        one.sendall(request % 2 + request % 3 + b"GET /4 HTTP/1.1\r\nConnection: close\r\n\r\n")
        return until_closed(one)

    received = against_server(client)
    assert [part.split(b"HTTP/1.1")[0] for part in received.split(b"\r\n\r\n")[1:]] == [b"/1", b"/2", b"/3", b"/4"]


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_told_so(garbage):
    def client(one):
        one.sendall(garbage + b"\r\n\r\n")
        return until_closed(one)

    status, error = refusal(against_server(client))
    assert status == 400
    assert "HTTP/1.1" in error
