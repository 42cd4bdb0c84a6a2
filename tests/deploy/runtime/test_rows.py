from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.runtime.base import Runner
from deploy.runtime.rows import fixed_batch, infer_rows, rows_of
from deploy.specs import TensorSpec


class Doubles(Runner):
    """``logits = 2 · input`` and ``order``: the place of a row in its batch. Remembers what it was fed."""

    backend = execution = "numpy"

    def __init__(self, *shape, mask=False):
        self.inputs = (TensorSpec("input", "float32", shape),)
        if mask:
            self.inputs += (TensorSpec("mask", "bool", shape[:1]),)
        self.outputs = (TensorSpec("logits", "float32", shape), TensorSpec("order", "int64", shape[:1]))
        self.fed = []

    def infer(self, feeds):
        self.check(feeds)
        self.fed.append({name: array.copy() for name, array in feeds.items()})
        return {"logits": feeds["input"] * 2, "order": np.arange(len(feeds["input"]))}

    def close(self):
        pass


def rows(count):
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


@pytest.mark.parametrize(("shape", "batch"), [(("batch", 3), None), ((4, 3), 4), ((1, 3), 1), ((), None), ((3,), None)])
def test_the_batch_a_runner_insists_on(shape, batch):
    assert fixed_batch(Doubles(*shape)) == batch


@pytest.mark.parametrize("count", [1, 5])
def test_a_dynamic_batch_runs_at_once(count):
    runner = Doubles("batch", 3)
    np.testing.assert_array_equal(infer_rows(runner, {"input": rows(count)})["logits"], rows(count) * 2)
    assert len(runner.fed) == 1


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_runs_in_pieces(count, batch):
    runner = Doubles(batch, 3)
    outputs = infer_rows(runner, {"input": rows(count)})
    np.testing.assert_array_equal(outputs["logits"], rows(count) * 2)
    np.testing.assert_array_equal(outputs["order"], np.arange(count) % batch)
    assert len(runner.fed) == -(-count // batch)


def test_the_last_piece_is_filled_with_its_last_row():
    runner = Doubles(4, 3)
    infer_rows(runner, {"input": rows(6)})
    np.testing.assert_array_equal(runner.fed[1]["input"], rows(6)[[4, 5, 5, 5]])


def test_every_input_is_cut_alike():
    runner = Doubles(2, 3, mask=True)
    mask = np.array([True, False, True])
    infer_rows(runner, {"input": rows(3), "mask": mask})
    np.testing.assert_array_equal(np.concatenate([fed["mask"] for fed in runner.fed])[:3], mask)


@pytest.mark.parametrize("batch", ["batch", 4])
@pytest.mark.parametrize(
    ("counts", "said"), [((5, 3), r"got \{'input': 5, 'mask': 3\}"), ((0, 0), r"got \{'input': 0, 'mask': 0\}")]
)
def test_inputs_that_are_no_batch(batch, counts, said):
    feeds = {"input": rows(counts[0]), "mask": np.ones(counts[1], bool)}
    with pytest.raises(InputError, match=rf"the inputs are not one batch \({said}; expected the same number of rows"):
        infer_rows(Doubles(batch, 3, mask=True), feeds)


@pytest.mark.parametrize("batch", ["batch", 4])
def test_wrong_names_are_the_runners_to_tell(batch):
    with pytest.raises(InputError, match="other names"):
        infer_rows(Doubles(batch, 3), {"image": rows(5)})


class Sums(Runner):
    """``scaled = input · factor`` by row, ``total`` over the whole batch; ``factor`` follows no batch."""

    backend = execution = "numpy"

    def __init__(self, batch):
        self.inputs = (TensorSpec("factor", "float32", ()), TensorSpec("input", "float32", (batch, 3)))
        self.outputs = (TensorSpec("scaled", "float32", (batch, 3)), TensorSpec("total", "float32", ()))

    def infer(self, feeds):
        self.check(feeds)
        scaled = feeds["input"] * feeds["factor"]
        return {"scaled": scaled, "total": scaled.sum()}

    def close(self):
        pass


@pytest.mark.parametrize("batch", ["batch", 2])
def test_what_follows_no_batch_goes_to_every_piece(batch):
    outputs = infer_rows(Sums(batch), {"factor": np.full((), 3, np.float32), "input": rows(4)})
    np.testing.assert_array_equal(outputs["scaled"], rows(4) * 3)
    assert np.size(outputs["total"]) == (1 if batch == "batch" else 2)
    assert np.sum(outputs["total"]) == pytest.approx(3 * rows(4).sum(), rel=1e-5)


def test_rows_are_counted_by_what_follows_the_batch():
    assert rows_of(Sums("batch").inputs, {"factor": np.ones(()), "input": rows(4)}) == 4
    assert rows_of([TensorSpec("x", "float32", (7,))], {"x": np.ones(7)}) == 1
