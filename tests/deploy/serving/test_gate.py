"""What was accepted is waited for; what comes later is refused."""

from __future__ import annotations

import asyncio

from deploy.serving.gate import Gate


class Held:
    """An ASGI application that answers when ``gate`` is set."""

    def __init__(self):
        self.gate = asyncio.Event()

    async def __call__(self, scope, receive, send):
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(gate, path="/v2/models/m/infer"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing reads the body")

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    return asyncio.create_task(gate(scope, receive, send)), sent


def test_what_came_before_is_waited_for_and_what_comes_then_is_told_to_go():
    async def check():
        app = Held()
        gate = Gate(app)
        before, answer = ask(gate)
        await asyncio.sleep(0)
        closing = asyncio.create_task(gate.close(30))
        await asyncio.sleep(0)
        late, refusal = ask(gate)
        await late
        assert refusal[0]["status"] == 503
        assert (b"connection", b"close") in refusal[0]["headers"]
        assert not closing.done()
        alive, life = ask(gate, "/v2/health/live")
        app.gate.set()
        assert await closing
        await asyncio.gather(before, alive)
        assert [answer[0]["status"], life[0]["status"]] == [200, 200]

    asyncio.run(check())


def test_it_gives_up_at_its_limit():
    async def check():
        app = Held()
        gate = Gate(app)
        task, _ = ask(gate)
        await asyncio.sleep(0)
        assert not await gate.close(0.01)
        app.gate.set()
        await task

    asyncio.run(check())


def test_nothing_under_way_is_nothing_to_wait_for():
    assert asyncio.run(Gate(None).close(0))
