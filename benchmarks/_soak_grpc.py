"""gRPC callers of the soak test, with Triton's own client: they ask, cancel, run out of time, and ask for nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from _soak_client import ANSWER_SECONDS, Client
from _soak_models import answer_to, rows_of
from tritonclient.utils import InferenceServerException

CALLERS = 4
_MODEL = "steady"


def callers(client: Client, address: str) -> list[Coroutine[Any, Any, None]]:
    """What one client process does over gRPC beside HTTP; ``address`` is ``host:port``."""
    target = address.rpartition("//")[2]
    return [_call(client, target, (client.index << 32) + (index << 24)) for index in range(1, CALLERS + 1)]


async def _call(client: Client, target: str, tag: int) -> None:
    async with triton.InferenceServerClient(target) as server:
        while not client.ended:
            tag += 1
            kind = client.random.random()
            if kind < 0.85:
                await _ask(client, server, tag)
            elif kind < 0.92:
                await _cancel(client, server, tag)
            else:
                await _nonsense(client, server)


async def _infer(server: triton.InferenceServerClient, rows: np.ndarray, tag: int, **options: Any) -> np.ndarray:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    reply = await server.infer(_MODEL, [tensor], request_id=str(tag), **options)
    if reply.get_response().id != str(tag):
        raise AssertionError(f"gRPC: request {tag} got the answer to {reply.get_response().id}")
    return reply.as_numpy("y")


async def _ask(client: Client, server: triton.InferenceServerClient, tag: int) -> None:
    rows, ledger = rows_of(tag, client.random.choice((1, 1, 2, 4))), client.ledger
    try:
        found = await _infer(server, rows, tag, client_timeout=ANSWER_SECONDS)
    except AssertionError as error:
        ledger.faults.append(str(error))
    except InferenceServerException as error:
        ledger.outcomes[f"grpc {error.status()}"] += 1
        ledger.refused[_MODEL] += 1
        full = "UNAVAILABLE" in str(error.status()) and "queue size" in str(error)
        if not full and not client.stopping:
            ledger.faults.append(f"gRPC: {error}")
        await asyncio.sleep(0.05 if client.stopping else 0)
    else:
        ledger.outcomes["grpc OK"] += 1
        ledger.answered[_MODEL] += 1
        if not np.allclose(found, answer_to(rows), rtol=1e-4, atol=1e-3):
            ledger.faults.append(f"gRPC: request {tag} got wrong numbers")


async def _cancel(client: Client, server: triton.InferenceServerClient, tag: int) -> None:
    client.ledger.outcomes["grpc left"] += 1
    client.ledger.left[_MODEL] += 1
    task = asyncio.create_task(_infer(server, rows_of(tag, 1), tag))
    await asyncio.sleep(client.random.uniform(0, 0.02))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, InferenceServerException):
        await task


async def _nonsense(client: Client, server: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("z", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
    try:
        await server.infer("replaced", [tensor], client_timeout=ANSWER_SECONDS)
    except InferenceServerException as error:
        client.ledger.outcomes[f"grpc bad {error.status()}"] += 1
        if "INVALID_ARGUMENT" not in str(error.status()) and not client.stopping:
            client.ledger.faults.append(f"gRPC: a bad request got {error}")
    else:
        client.ledger.faults.append("gRPC: a bad request was answered")
