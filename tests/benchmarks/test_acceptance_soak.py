"""The soak's verdict: what leaks or mixes rows up is found, what only warms up is not."""

import argparse
import ctypes
import random
import types

import numpy as np
import pytest

from deploy.runtime.base import Runner
from deploy.specs import TensorSpec

NOISE = random.Random(0)


@pytest.fixture
def memory(benchmark_module):
    return benchmark_module("_acceptance_memory")


def noisy(samples):
    return [sample + NOISE.gauss(0, 2) for sample in samples]


FLAT = {
    "level": [500.0] * 120,
    "warming up": [300.0 + min(200.0, 10 * second) for second in range(120)],
    "saw-tooth": [500.0 + 40 * (second % 7) for second in range(120)],
    "one spike": [500.0] * 100 + [5000.0] + [500.0] * 19,
    "one late step": [500.0] * 70 + [560.0] * 50,
    "shrinking": [900.0 - second for second in range(120)],
}
GROWING = {
    "a leak in every request": [500.0 + second for second in range(120)],
    "steps that go on": [500.0 + 40 * (second // 20) for second in range(120)],
    "a leak under a saw-tooth": [500.0 + second + 40 * (second % 7) for second in range(120)],
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_memory_passes(memory, name):
    assert memory.Watched(host=noisy(FLAT[name]), gpu=noisy(FLAT[name])).verdict()["failures"] == []


@pytest.mark.parametrize("name", GROWING)
def test_growing_memory_fails_with_its_bound(memory, name):
    verdict = memory.Watched(host=noisy(GROWING[name]), gpu=[100.0] * 120).verdict()
    (failure,) = verdict["failures"]
    assert failure.startswith("host memory grew by")
    assert failure.endswith("over 32 MiB")
    assert verdict["grown_mib"]["gpu"] == 0


def test_the_gpu_has_a_bound_of_its_own(memory):
    samples = [100.0 + second / 3 for second in range(120)]
    assert memory.Watched(host=samples, gpu=samples).verdict()["failures"] == ["gpu memory grew by 20 MiB, over 16 MiB"]


def test_a_short_run_tells_nothing(memory):
    verdict = memory.Watched(host=[100.0, 900.0]).verdict()
    assert verdict["grown_mib"] == {"host": None, "gpu": None}
    assert verdict["failures"] == []


def test_this_process_is_watched(memory, monkeypatch):
    monkeypatch.setattr(memory, "load_driver", lambda: None)
    with memory.watching(1) as watched:
        held = np.ones(100 * 2**20, np.uint8)
        while len(watched.host) < 3 or max(watched.host) - memory.host_mib() < -1:
            pass
    assert max(watched.host) > 100
    assert watched.gpu == []
    del held


def test_gpu_memory_is_what_the_driver_says(memory, monkeypatch):
    calls = []

    def info(free, total):
        free._obj.value, total._obj.value = 3 * 2**30, 8 * 2**30
        return 0

    library = types.SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDeviceGet=lambda pointer, ordinal: 0,
        cuDevicePrimaryCtxRetain=lambda pointer, device: calls.append("retain") or 0,
        cuCtxSetCurrent=lambda context: calls.append("current") or 0,
        cuMemGetInfo_v2=info,
        cuDevicePrimaryCtxRelease_v2=lambda device: calls.append("release"),
    )
    monkeypatch.setattr(memory, "load_driver", lambda: library)
    gpu = memory.open_gpu_memory()
    assert gpu.used_mib() == 5 * 1024
    gpu.close()
    assert calls == ["retain", "current", "release"]
    library.cuInit = lambda flags: 100
    assert memory.open_gpu_memory() is None
    assert ctypes.sizeof(ctypes.c_size_t) == 8


class Doubler(Runner):
    """Twice its input. ``broken`` gives another answer now and then."""

    backend, execution = "onnxrt", "made up"
    inputs = (TensorSpec("input", "float32", ("batch", 4)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 4)),)

    def __init__(self, broken=None):
        self.calls, self.broken = 0, broken

    def infer(self, feeds):
        self.calls += 1
        outputs = 2 * feeds["input"]
        return {"logits": self.broken(self.calls, outputs) if self.broken else outputs}

    def close(self):
        pass


def swapped(calls, outputs):
    """The first answer to each batch is right, as is every one of a single row."""
    return np.roll(outputs, 1, axis=0) if calls > 2 else outputs


@pytest.fixture
def soaked(benchmark_module, monkeypatch):
    module = benchmark_module("_acceptance_soak")

    def run(runner):
        monkeypatch.setattr(module, "open_file", lambda file, device: (runner, None))
        return module.soak(argparse.Namespace(file=None, device="cpu", seconds=0.2, threads=3, batches=[2, 5]))

    return run


def test_right_answers_are_counted(soaked):
    document = soaked(Doubler())
    assert (document["failures"], document["wrong"], document["other_bits"]) == ([], 0, 0)
    assert document["requests"] >= 3
    assert 2 * document["requests"] <= document["rows"] <= 5 * document["requests"]


@pytest.mark.parametrize("broken", [swapped, lambda calls, outputs: outputs * (np.nan if calls > 2 else 1)])
def test_wrong_rows_fail(soaked, broken):
    document = soaked(Doubler(broken))
    assert document["wrong"] >= 2
    assert "rows were wrong" in document["failures"][0]


def test_another_rounding_is_told_and_no_failure(soaked):
    document = soaked(Doubler(lambda calls, outputs: outputs * np.float32(1 + 1e-6 * (calls > 2))))
    assert (document["failures"], document["wrong"]) == ([], 0)
    assert document["other_bits"] > 0
