from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.parity.compare import compare
from deploy.parity.judge import compare_runners
from deploy.runtime.base import Runner
from deploy.specs import TensorSpec


class Affine(Runner):
    """``a = factor * x`` and ``b = x + offset``, under names of choice."""

    backend = execution = "numpy"

    def __init__(self, factor=1.0, offset=0.0, inputs=("x",), outputs=("a", "b"), batch="batch"):
        self.inputs = tuple(TensorSpec(name, "float32", (batch, 4)) for name in inputs)
        self.outputs = tuple(TensorSpec(name, "float32", (batch, 4)) for name in outputs)
        self.values, self.calls = (np.float32(factor), np.float32(offset)), 0

    def infer(self, feeds):
        self.check(feeds)
        self.calls += 1
        (x, *_) = feeds.values()
        results = (x * self.values[0], x + self.values[1])
        return {spec.name: value for spec, value in zip(self.outputs, results)}

    def close(self):
        pass


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


BATCHES = [{"x": rows(3)}, {"x": rows(1, 1)}, {"x": rows(5, 2)}]
ALL = np.concatenate([feeds["x"] for feeds in BATCHES])


def test_each_output_of_each_runner_is_compared_over_all_batches():
    close, far = Affine(1.01, 0.1), Affine(2.0, 1.0)
    results = compare_runners(Affine(), [close, far], BATCHES)
    for result, runner in zip(results, (close, far), strict=True):
        expected = runner.infer({"x": ALL})
        assert result["a"].to_dict() == pytest.approx(compare(ALL, expected["a"]).to_dict())
        assert result["b"].to_dict() == pytest.approx(compare(ALL, expected["b"]).to_dict())
    assert results[0]["a"].max_abs < results[1]["a"].max_abs


def test_the_reference_runs_once_for_all_and_batches_are_not_kept():
    reference, others = Affine(), [Affine(), Affine()]
    compare_runners(reference, others, iter(BATCHES))
    assert [runner.calls for runner in (reference, *others)] == [3, 3, 3]


def test_a_fixed_batch_is_fed_in_pieces():
    (result,) = compare_runners(Affine(), [Affine(batch=2)], BATCHES)
    assert (result["a"].samples, result["a"].max_abs) == (9, 0)


def test_the_same_names_in_another_order():
    reference = Affine(outputs=("a", "b"))
    (result,) = compare_runners(reference, [Affine(2.0, outputs=("b", "a"))], BATCHES)
    assert result["a"].max_abs == pytest.approx(0)
    assert result["b"].max_abs == pytest.approx(np.abs(ALL).max())


def test_other_names_are_matched_by_position():
    (result,) = compare_runners(Affine(), [Affine(2.0, inputs=("image",), outputs=("probs", "boxes"))], BATCHES)
    assert set(result) == {"a", "b"}
    assert result["a"].relative == pytest.approx(1)
    assert result["b"].max_abs == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"inputs": ("x", "y")}, r"different inputs \(got \['x', 'y'\]; expected \['x'\]\)"),
        ({"outputs": ("a",)}, r"different outputs \(got \['a'\]; expected \['a', 'b'\]\)"),
    ],
)
def test_files_of_another_form(other, said):
    with pytest.raises(InputError, match=said):
        compare_runners(Affine(), [Affine(**other)], BATCHES)


def test_no_batches():
    with pytest.raises(InputError, match="nothing to compare"):
        compare_runners(Affine(), [Affine()], [])
