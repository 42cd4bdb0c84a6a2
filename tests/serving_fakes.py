"""A network that echoes its rows and can be held, and an event loop whose clock stands still."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Mapping

import numpy as np
from PIL import Image

from deploy.runtime.base import Array, Runner
from deploy.specs import TensorSpec


class Echo(Runner):
    """``y = 2 x``. While ``gate`` is clear, runs wait. ``batches`` are the rows it saw, warm-up (zeros) left out."""

    backend, execution = "fake", "fake"

    def __init__(self, batch: int | str = "batch", width: int | str = "n") -> None:
        self.inputs = (TensorSpec("x", "float32", (batch, width)),)
        self.outputs = (TensorSpec("y", "float32", (batch, width)),)
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.batches: list[list[float]] = []
        self.closed, self.error = False, None

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        rows = feeds["x"]
        if rows.any():
            self.batches.append(rows[:, 0].tolist())
            self.entered.release()
            assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return {"y": rows * np.float32(2)}

    def close(self) -> None:
        self.closed = True


class Colours(Runner):
    """Mean of each channel of an image."""

    backend, execution = "fake", "fake"
    inputs = (TensorSpec("input", "float32", ("batch", 3, 8, 8)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 3)),)

    def infer(self, feeds):
        self.check(feeds)
        return {"logits": feeds["input"].mean(axis=(2, 3))}

    def close(self):
        pass


def encoded(colour: tuple[int, int, int], size: int = 8) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


class StillLoop(asyncio.SelectorEventLoop):
    """Time passes only when told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now


def run_still(coroutine: Coroutine):
    loop = StillLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, None))
    finally:
        loop.close()


async def settle(turns: int = 10) -> None:
    """Let everything that can go on without a thread or the clock go on."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def advance(seconds: float) -> None:
    await settle()  # what was asked before has arrived before
    asyncio.get_running_loop().now += seconds
    await settle()


def tagged(*tags: float, width: int = 2) -> dict[str, Array]:
    """One row for each tag."""
    return {"x": np.repeat(np.asarray(tags, np.float32)[:, None], width, axis=1)}
