"""A runner that does not agree with itself is found out by the check that looks for it."""

import threading

import numpy as np
import pytest

from deploy.runtime.base import Runner
from deploy.specs import Precision, TensorSpec

FEEDS = {
    batch: {"input": np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)} for batch in (1, 7, 9)
}


class Doubler(Runner):
    backend, execution = "onnxrt", "made up"
    inputs = (TensorSpec("input", "float32", ("batch", 4)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 4)),)

    def __init__(self, broken=lambda outputs, calls: outputs):
        self.calls, self.broken = 0, broken

    def infer(self, feeds):
        self.calls += 1
        return {"logits": self.broken(2 * feeds["input"], self.calls)}

    def close(self):
        pass


@pytest.fixture
def consistency(benchmark_module, monkeypatch):
    module = benchmark_module("_acceptance_consistency")
    monkeypatch.setattr(module, "_SECONDS", 0.05)
    return module.consistency


def found(consistency, broken, precision=Precision.FP32):
    checks = consistency(Doubler(broken), FEEDS, precision)
    assert list(checks) == ["repeat", "same rows", "alone", "threads"]
    return {name for name, figures in checks.items() if figures["failures"]}


def test_one_that_agrees(consistency):
    checks = consistency(Doubler(), FEEDS, Precision.FP32)
    assert all(figures["same_bits"] and not figures["failures"] for figures in checks.values())


def test_noise_between_calls(consistency):
    rng = np.random.default_rng(0)
    noise = lambda outputs, calls: outputs * np.float32(1 + 1e-5 * rng.random())  # noqa: E731
    checks = consistency(Doubler(noise), FEEDS, Precision.FP32)
    assert checks["repeat"]["failures"] == checks["threads"]["failures"] == ["other bits"]
    assert not checks["alone"]["failures"]  # it is within rounding
    assert not checks["alone"]["same_bits"]


def last_row_forgotten(outputs, calls):
    outputs[-1] = outputs[0] if len(outputs) == 1 else 0
    return outputs


def test_a_row_that_is_not_computed(consistency):
    assert {"same rows", "alone"} <= found(consistency, last_row_forgotten)


def test_rows_that_hang_on_their_neighbours(consistency):
    assert found(consistency, lambda outputs, calls: outputs - outputs.mean(axis=0)) == {"alone"}


def test_answers_mixed_up_between_threads(consistency):
    main = threading.get_ident()
    mixed = lambda outputs, calls: outputs if threading.get_ident() == main else np.roll(outputs, 1, axis=0)  # noqa: E731
    assert found(consistency, mixed) == {"threads"}


def test_nan(consistency):
    assert found(consistency, lambda outputs, calls: outputs * (np.nan if calls > 3 else 1)) == {
        "repeat",
        "same rows",
        "alone",
        "threads",
    }


def test_int8_may_round_the_other_way_now_and_then(consistency):
    step = lambda outputs, calls: outputs + 0.02 * (len(outputs) == 1)  # noqa: E731
    assert found(consistency, step, Precision.INT8) == set()
    assert found(consistency, step, Precision.FP32) == {"alone"}
