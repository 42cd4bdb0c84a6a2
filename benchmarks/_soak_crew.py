"""The client processes of the soak test, told what to do over pipes."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
from collections.abc import Coroutine
from multiprocessing.connection import Connection as Pipe
from typing import Any

from _soak_client import ANSWER_SECONDS, Client, Ledger
from _soak_models import Picture, photographs

# Each client process: so many connections beyond the workers', and how often a burst of how many comes.
BURST, BURST_SECONDS = 60, 3.0
SLOW, PICTURES, DRIBBLES = 6, 4, 3


class Crew:
    """``processes`` clients with ``connections`` workers each; a context manager."""

    def __init__(self, address: tuple[str, int], grpc: str | None, processes: int, connections: int, seed: int) -> None:
        context = mp.get_context("spawn")
        self.answered, self.faults = context.Value("q", 0), context.Value("q", 0)
        self._pipes, self._processes, pictures = [], [], photographs()
        for index in range(processes):
            ours, theirs = context.Pipe()
            given = (theirs, address, grpc, index + 1, seed, connections, pictures, self.answered, self.faults)
            self._pipes.append(ours)
            self._processes.append(context.Process(target=_client_process, args=given, daemon=True))

    def __enter__(self) -> Crew:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def tell(self, word: str) -> None:
        for pipe in self._pipes:
            pipe.send(word)

    def start(self, phase: str) -> None:
        """Begin ``load`` or ``drain``; returns when all work."""
        self.tell(phase)
        for pipe in self._pipes:
            pipe.recv()

    def finish(self) -> Ledger:
        """End the phase: what all of them saw in it."""
        self.tell("end")
        total = Ledger()
        for pipe in self._pipes:
            total.add(pipe.recv())
        return total


def _client_process(pipe: Pipe, address: tuple[str, int], grpc: str | None, index: int, seed: int, connections: int,
                    pictures: list[Picture], answered: Any, faults: Any) -> None:  # fmt: skip
    client = Client(address, index, seed * 1000 + index, pictures)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        asyncio.run(_obey(client, pipe, grpc, connections, answered, faults))


async def _obey(client: Client, pipe: Pipe, grpc: str | None, connections: int, answered: Any, faults: Any) -> None:
    loop = asyncio.get_running_loop()
    while True:
        phase = await loop.run_in_executor(None, pipe.recv)
        client.ledger, client.ended = Ledger(), False
        actors = [client.worker() for _ in range(connections)]
        actors += _drainers(client) if phase == "drain" else [client.bursts(BURST, BURST_SECONDS)]
        if grpc:
            from _soak_grpc import callers

            actors += callers(client, grpc)
        tasks = [asyncio.create_task(actor) for actor in (*actors, _count(client, answered, faults))]
        idlers = [asyncio.create_task(actor) for actor in (_idlers(client) if phase == "load" else [])]
        pipe.send("working")
        while (word := await loop.run_in_executor(None, pipe.recv)) != "end":
            client.stopping = word == "stopping"
        client.ended = True
        for idler in idlers:
            idler.cancel()
        await _all_done([*tasks, *idlers], client)
        pipe.send(client.ledger)


async def _all_done(tasks: list[asyncio.Task[None]], client: Client) -> None:
    """Until all have got their answers; an actor that broke is a fault of the test, and said so."""
    _, late = await asyncio.wait(tasks, timeout=5 if client.stopping else ANSWER_SECONDS + 10)
    for task in late:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            client.ledger.faults.append(f"the test's own: {result!r}")


def _idlers(client: Client) -> list[Coroutine[Any, Any, None]]:
    """Nobody waits for them: they expect nothing, or 408 in half a minute."""
    return [client.half_bodies(), client.half_bodies(), client.deaf()]


def _drainers(client: Client) -> list[Coroutine[Any, Any, None]]:
    """Requests that are under way at any moment: in a queue, being decoded, being received."""
    slow = [client.repeat(client.slow_ask) for _ in range(SLOW)]
    decoded = [client.repeat(client.picture_ask) for _ in range(PICTURES)]
    return [*slow, *decoded, *(client.repeat(client.slow_ask, 2.0) for _ in range(DRIBBLES))]


async def _count(client: Client, answered: Any, faults: Any) -> None:
    """The figures of the progress line, a few times each second."""
    told_answers = told_faults = 0
    while not client.ended:
        await asyncio.sleep(0.3)
        answers, wrong = sum(client.ledger.answered.values()), len(client.ledger.faults)
        with answered.get_lock():
            answered.value += answers - told_answers
        with faults.get_lock():
            faults.value += wrong - told_faults
        told_answers, told_faults = answers, wrong
