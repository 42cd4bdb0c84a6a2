"""Runners whose queries take a set time, on a clock that only they move."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from deploy.bench import load as load_module
from deploy.runtime.base import Runner
from deploy.runtime.timing import InferenceTime
from deploy.specs import TensorSpec


class Clock:
    """Seconds, moved by hand."""

    def __init__(self):
        self.now = 100.0
        self._lock = threading.Lock()

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        with self._lock:
            self.now += seconds


class FakeRunner(Runner):
    """Takes the next of ``times`` in seconds for each query, over and over."""

    backend = "fake"
    execution = "executed on a fake"
    device = "cpu"
    inputs = (TensorSpec("input", "float32", ("batch", 2)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 2)),)

    def __init__(self, clock, *times):
        self.clock, self.times, self.fed = clock, times, []

    def infer(self, feeds):
        self.clock.pass_(self.times[len(self.fed) % len(self.times)])
        self.fed.append(feeds)
        return {"logits": np.zeros((len(feeds["input"]), 2), np.float32)}

    def close(self): ...


class FakeGpuRunner(FakeRunner):
    """Tells the parts of its queries."""

    device = "cuda"
    timed_by = "a fake's events"

    def __init__(self, clock, *times, parts):
        super().__init__(clock, *times)
        self.parts = parts

    def infer_timed(self, feeds):
        self.clock.pass_(0.005)  # of the host, to read the events
        return self.infer(feeds), self.parts


@pytest.fixture
def clock(monkeypatch):
    """The clock that load and fakes share."""
    clock = Clock()
    monkeypatch.setattr(load_module, "perf_counter", clock)
    return clock


@pytest.fixture
def fake(clock):
    return lambda *times: FakeRunner(clock, *times)


@pytest.fixture
def fake_gpu(clock):
    parts = InferenceTime(h2d_ms=2, compute_ms=5, d2h_ms=1, enqueue_ms=0.5)
    return lambda *times, parts=parts: FakeGpuRunner(clock, *times, parts=parts)


@pytest.fixture
def feeds():
    return [{"input": np.full((4, 2), index, np.float32)} for index in range(3)]
