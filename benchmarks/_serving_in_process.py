"""The upper bound: the batcher in one process, asked by as many tasks as there would be clients. No HTTP.

python benchmarks/_serving_in_process.py GRAPH INPUTS THREADS MAX_BATCH

Reads one JSON object a line, ``{"kind", "clients", "start", "begin", "end"}``, and answers with one line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from _measure import ROOT

sys.path.insert(0, str(ROOT))

from _serving_inputs import Inputs
from _serving_load import TOLERANCE

from deploy.runtime.onnxrt import OnnxRunner
from deploy.serving.memory import keep_freed_memory
from deploy.serving.messages import InferRequest
from deploy.serving.repository import Repository
from deploy.serving.server import SWITCH_SECONDS
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings

Ask = Callable[[int], Awaitable[np.ndarray]]


async def main() -> None:
    graph, folder, threads, max_batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    runner, inputs = OnnxRunner(graph, device="cpu", threads=threads), Inputs.load(folder)
    repository = Repository({"net": lambda: [runner]}, BatchSettings(max_batch))
    await repository.load("net")
    ways = _ways(repository, inputs)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        load = json.loads(line)
        answer = await _measure(ways[load["kind"]], inputs.expected, load)
        print(json.dumps(answer), flush=True)
    await repository.drain()


def _ways(repository: Repository, inputs: Inputs) -> dict[str, Ask]:
    model, service = repository.model("net"), Service(repository)
    name, output = model.batcher.inputs[0].name, model.batcher.runner.outputs[0].name
    tensors = [{name: inputs.batch[index : index + 1]} for index in range(len(inputs.files))]
    images = [InferRequest({name: np.array([file], object)}) for file in inputs.files]

    async def tensor(index: int) -> np.ndarray:
        return (await model.batcher.infer(tensors[index]))[output][0]

    async def image(index: int) -> np.ndarray:
        return (await service.infer(model, images[index])).outputs[0][1][0]

    return {"tensor": tensor, "image": image}


async def _measure(ask: Ask, expected: np.ndarray, load: dict[str, Any]) -> dict[str, Any]:
    latencies: list[float] = []

    async def client(first: int) -> None:
        index, sent = first, time.monotonic()
        while sent < load["end"]:
            index = (index + 1) % len(expected)
            logits = await ask(index)
            if not np.abs(logits - expected[index]).max() < TOLERANCE:
                raise SystemExit("the batcher gives a wrong answer")
            done = time.monotonic()
            if load["begin"] <= done < load["end"]:
                latencies.append(done - sent)
            sent = done

    await asyncio.sleep(load["start"] - time.monotonic())
    await asyncio.gather(*(client(number) for number in range(load["clients"])))
    return {"finished": len(latencies), "latencies": latencies}


if __name__ == "__main__":
    # As the server sets its own process.
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(main())
