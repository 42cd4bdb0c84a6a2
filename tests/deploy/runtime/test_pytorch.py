from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deploy.errors import InputError
from deploy.runtime.pytorch import TorchRunner, named_tensors, output_specs
from deploy.specs import TensorSpec

INPUT, OUTPUT = TensorSpec("input", "float32", ("batch", 3, 8, 8)), TensorSpec("logits", "float32", ("batch", 3, 8, 8))


def images(rows=2, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def wrapped(*layers):
    return TorchRunner(nn.Sequential(*layers), [INPUT], [OUTPUT])


def test_computes_what_the_module_does_in_evaluation_mode():
    layers = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)
    got = wrapped(*layers).infer({"input": images()})["logits"]
    with torch.no_grad():
        expected = nn.Sequential(*layers).eval()(torch.from_numpy(images())).numpy()
    np.testing.assert_array_equal(got, expected)


def test_it_says_what_it_is():
    runner = wrapped(nn.Identity())
    assert (runner.backend, runner.execution) == ("pytorch", f"executed on CPU (PyTorch {torch.__version__})")
    assert (runner.inputs, runner.outputs, runner.manifest) == ((INPUT,), (OUTPUT,), None)
    with runner as opened:
        assert opened is runner
    runner.close()


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"image": images()}, "other names"),
        ({"input": images().astype(np.float64)}, "got float64"),
        ({"input": images()[:, :2]}, r"got float32\[2, 2, 8, 8\]"),
    ],
)
def test_wrong_feeds(feeds, said):
    with pytest.raises(InputError, match=said):
        wrapped(nn.Identity()).infer(feeds)


def test_what_is_fed_stays_as_it_is():
    """Modules may work in place; the same array goes to the next runner of a comparison."""
    feed = images()
    got = wrapped(nn.ReLU(inplace=True)).infer({"input": feed})["logits"]
    np.testing.assert_array_equal(feed, images())
    np.testing.assert_array_equal(got, np.maximum(images(), 0))


def test_results_own_their_memory():
    runner, feed = wrapped(nn.Identity()), images()
    first = runner.infer({"input": feed})["logits"]
    feed[:] = 0
    runner.infer({"input": images(seed=1)})
    np.testing.assert_array_equal(first, images())


def test_feeds_that_pytorch_itself_refuses():
    read_only = images()
    read_only.flags.writeable = False
    for feed in (read_only, images()[:, ::-1], images().transpose(0, 1, 3, 2)):
        np.testing.assert_array_equal(wrapped(nn.Identity()).infer({"input": feed})["logits"], feed)


class Returns(nn.Module):
    """Returns what it was made with, whatever it is fed."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, *inputs):
        return self.make(*inputs)


def test_several_inputs_and_outputs():
    ids = TensorSpec("ids", "int64", ("batch",))
    module = Returns(lambda x, ids: {"sum": x.mean((1, 2, 3)) + ids, "parts": (x, None, [ids])})
    outputs = output_specs(module, [INPUT, ids], ["sum", "first", "second"])
    assert [(spec.name, spec.dtype, spec.shape) for spec in outputs] == [
        ("sum", "float32", ("batch",)),
        ("first", "float32", ("batch", 3, 8, 8)),
        ("second", "int64", ("batch",)),
    ]
    feeds = {"ids": np.arange(3), "input": images(3)}
    with TorchRunner(module, [INPUT, ids], outputs) as runner:
        got = runner.infer(feeds)
    np.testing.assert_allclose(got["sum"], images(3).mean((1, 2, 3)) + np.arange(3), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["first"], images(3))
    np.testing.assert_array_equal(got["second"], feeds["ids"])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: {"logits": x}, ["logits"]),
        (lambda x: (x, x), ["output0", "output1"]),
        (lambda x: {"boxes": x, "scores": x[0]}, ["boxes", "scores"]),
        (lambda x: {"a": (x, x)}, ["output0", "output1"]),
    ],
)
def test_outputs_are_named_by_their_keys_or_numbered(make, names):
    assert [spec.name for spec in output_specs(Returns(make), [INPUT], None)] == names


def test_an_output_without_the_batch_has_a_fixed_shape():
    (spec,) = output_specs(Returns(lambda x: x.mean(0)), [INPUT], None)
    assert spec.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("make", "names", "said"),
    [
        (lambda x: None, None, "Returns returns no tensor"),
        (lambda x: (x, x), ["logits"], r"Returns returns 2 tensors \(expected logits\)"),
        (lambda x: x.view(7), None, "Returns does not run on input float32.*RuntimeError: shape"),
    ],
)
def test_what_a_module_returns_that_cannot_be_used(make, names, said):
    with pytest.raises(InputError, match=said):
        output_specs(Returns(make), [INPUT], names)


def test_tensors_are_found_in_the_exporters_order():
    one, two = torch.zeros(1), torch.ones(1)
    assert [(name, float(value)) for name, value in named_tensors({"b": one, "a": [two, None]})] == [("b", 0), ("a", 1)]
