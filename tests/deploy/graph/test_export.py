from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from deploy.errors import InputError
from deploy.graph.export import export_graph
from deploy.graph.files import to_bytes
from deploy.parity.compare import compare
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.specs import Precision, image_input
from models.settle import settle

FP32 = DEFAULT_LIMITS[Precision.FP32]


class Small(nn.Module):
    """A convolution with its norm twice, a classifier with dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class BranchesOnValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TakesTwo(nn.Module):
    def forward(self, x, y):
        return x + y


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("the channels of this network do not add up\nsecond line")


class Conditional(nn.Module):
    """Branches as torch.export wants them: the graph holds an If with two graphs inside."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


@pytest.fixture(scope="module")
def small():
    model = Small()
    settle(model, (16, 16))
    return model


@pytest.fixture(scope="module")
def small_graph(small):
    return export_graph(small, [image_input((16, 16))], ["logits"])


def _shape(value):
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def test_versions_names_and_shapes_are_those_promised(exported):
    proto = ir.to_proto(exported)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == 10
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 19)]
    assert [(value.name, _shape(value)) for value in exported.graph.inputs] == [("input", ["batch", 3, 64, 64])]
    assert [(value.name, _shape(value)) for value in exported.graph.outputs] == [("logits", ["batch", 10])]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_equals_pytorch_for_any_batch(digits, exported, digit_images, run, rows):
    images = digit_images[0][:rows]
    with torch.inference_mode():
        expected = digits.module(torch.from_numpy(images)).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(run(exported, images)["logits"], expected, atol=1e-5 * np.abs(expected).max())


def test_nodes_carry_the_path_of_their_module(digits, exported):
    modules = dict(digits.module.named_modules())
    for node in exported.graph:
        path, _, operator = node.name.rpartition("/")
        assert operator.split("_")[0] == node.op_type
        assert path in modules, node.name
    convolutions = [node.name.rpartition("/")[0] for node in exported.graph if node.op_type == "Conv"]
    assert convolutions == [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]


def test_weights_keep_their_names(digits, exported):
    state = digits.module.state_dict()
    weights = [name for name in state if name.endswith(".weight") and state[name].ndim > 1]
    assert len(weights) > 50
    assert set(weights) <= set(exported.graph.initializers)


def test_nothing_tells_where_it_was_made(exported):
    """torch.export writes stack traces and source paths into the graph: 2 MB of them for some networks."""
    data = to_bytes(exported)
    here = [str(Path(__file__).parents[3]), str(Path.home()), sys.prefix, "site-packages", '.py"', ".py:", 'File "']
    assert [word for word in here if word.encode() in data] == []
    assert re.findall(rb"stack_trace|pkg\.torch|namespace|doc_string", data) == []
    proto = ir.to_proto(exported)
    assert not proto.doc_string
    assert not proto.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert not any(value.doc_string or value.metadata_props for value in proto.graph.value_info)


def test_the_exporter_does_write_traces(small, monkeypatch):
    """Else the test above would prove nothing."""
    monkeypatch.setattr("deploy.graph.export.clear_traces", lambda model: None)
    data = to_bytes(export_graph(small, [image_input((16, 16))], ["logits"]))
    assert Path(__file__).name.encode() in data
    assert b"site-packages" in data


def test_inner_graphs_hold_no_traces_either():
    graph = export_graph(Conditional(), [image_input((4, 4))], ["logits"])
    assert "If" in [node.op_type for node in graph.graph]
    assert Path(__file__).name.encode() not in to_bytes(graph)
    assert b"File" not in to_bytes(graph)


def test_a_fixed_batch(small, run):
    graph = export_graph(small, [image_input((16, 16))], ["logits"], batch=3)
    assert _shape(graph.graph.inputs[0]) == [3, 3, 16, 16]
    assert _shape(graph.graph.outputs[0]) == [3, 5]
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)
    with torch.inference_mode():
        expected = small(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(graph, images)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_heights_and_widths_that_differ(small):
    assert _shape(export_graph(small, [image_input((12, 20))], ["logits"]).graph.inputs[0]) == ["batch", 3, 12, 20]


def test_a_training_network_is_exported_for_evaluation(small, small_graph, run):
    small.train()
    graph = export_graph(small, [image_input((16, 16))], ["logits"])
    assert to_bytes(graph) == to_bytes(small_graph)
    assert not {"Dropout", "BatchNormalization"} & {node.op_type for node in graph.graph}


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (BranchesOnValues(), "data-dependent"),
        (TakesTwo(), "TypeError: .*missing a required argument|'y'"),
        (Raises(), "the channels of this network do not add up"),
    ],
)
def test_what_cannot_be_traced_is_named_with_its_cause(model, cause, capfd):
    with pytest.raises(InputError) as caught:
        export_graph(model, [image_input((4, 4))], ["logits"])
    name = type(model).__name__
    assert re.search(rf"{name} cannot be exported \(got .*({cause})", caught.value.headline)
    assert caught.value.fix.startswith("torch.export must be able to trace its forward")
    assert "\x1b" not in caught.value.headline
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("damage", ["weight", "channels", "bias"])
def test_a_damaged_graph_misses_the_limits(small, small_graph, run, damage):
    """What export's gate compares, on a graph that is wrong in one place."""
    images = np.random.default_rng(0).standard_normal((8, 3, 16, 16), np.float32)
    with torch.inference_mode():
        expected = small.eval()(torch.from_numpy(images)).numpy()
    graph = small_graph.clone()
    assert FP32.failures(compare(expected, run(graph, images)["logits"])) == []
    name = "head.1.bias" if damage == "bias" else "body.0.weight"
    value = graph.graph.initializers[name]
    array = value.const_value.numpy().copy()
    if damage == "weight":
        array[0, 0, 0, 0], array[1, 1, 1, 1] = array[1, 1, 1, 1], array[0, 0, 0, 0]
    else:
        array = np.roll(array, 1, axis=0)
    value.const_value = ir.Tensor(array, name=name)
    assert FP32.failures(compare(expected, run(graph, images)["logits"])) != []
