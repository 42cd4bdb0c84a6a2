"""What ShuffleNet's channel shuffle and split become: operators that only move values, with constant shapes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxsim
import pytest
import torch

from deploy.graph.export import OPSET, export_graph
from deploy.graph.irtools import constant
from deploy.graph.simplify import simplify
from deploy.specs import image_input
from models import create_model
from models.settle import settle

SIZE = 64
SHUFFLES = 16  # one in each unit
COMMON = {"Reshape": 2 * SHUFFLES, "Transpose": SHUFFLES, "MaxPool": 1, "ReduceMean": 1, "Gemm": 1}
# The number of each operator in the whole graph.
OPERATORS = {
    "shufflenet_v2_x0_5": {**COMMON, "Conv": 56, "Relu": 37, "Concat": 16, "Split": 13},
    "shufflenet_v1_x0_5_g3": {**COMMON, "Conv": 49, "Relu": 33, "Concat": 3, "Add": 13, "AveragePool": 3},
}


@pytest.fixture(scope="module", params=list(OPERATORS))
def exported(request):
    """A name, its network with weights that mean something, and its simplified graph with a dynamic batch."""
    network = create_model(request.param, num_classes=10)
    settle(network, (SIZE, SIZE))
    return request.param, network, simplify(export_graph(network, [image_input((SIZE, SIZE))], ["logits"]))


def _counts(graph):
    return Counter(node.op_type for node in graph)


def test_no_operator_but_those_of_the_architecture(exported):
    """Nothing computes a shape, and every batch norm is in its convolution."""
    name, _, model = exported
    assert _counts(model.graph) == OPERATORS[name]


def test_a_shuffle_is_reshape_transpose_reshape(exported):
    _, _, model = exported
    for transpose in (node for node in model.graph if node.op_type == "Transpose"):
        before, after = transpose.inputs[0].producer(), transpose.outputs[0].uses()[0].node
        assert (before.op_type, after.op_type) == ("Reshape", "Reshape")
        assert list(transpose.attributes["perm"].as_ints()) == [0, 2, 1, 3, 4]
        split, joined = constant(before.inputs[1]), constant(after.inputs[1])
        assert split.tolist() == [-1, *split[1:].tolist()]
        assert joined.tolist() == [-1, split[1] * split[2], *split[3:].tolist()]


def test_every_node_is_named_by_its_module(exported):
    _, network, model = exported
    modules = dict(network.named_modules())
    assert [node.name for node in model.graph if node.name.rpartition("/")[0] not in modules] == []
    # A unit's split belongs to the unit, not to the convolution that reads it.
    assert {type(modules[n.name.rpartition("/")[0]]).__name__ for n in model.graph if n.op_type == "Split"} <= {"Unit"}


@pytest.mark.parametrize("rows", [1, 3])
def test_equals_pytorch_for_any_batch(exported, run, rows):
    _, network, model = exported
    images = np.random.default_rng(0).standard_normal((rows, 3, SIZE, SIZE), np.float32)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(model, images)["logits"], expected, atol=1e-4 * np.abs(expected).max())


def test_no_more_nodes_than_the_plain_exporter_gives(exported):
    """torch.onnx.export and onnxsim of torchvision's network, or of ours where torchvision has none."""
    name, network, model = exported
    import torchvision_operators  # noqa: F401 - before torchvision
    from torchvision import models as torchvision_models

    peer = getattr(torchvision_models, name)() if hasattr(torchvision_models, name) else network
    example = (torch.zeros(2, 3, SIZE, SIZE),)
    plain = torch.onnx.export(peer.eval(), example, dynamo=True, opset_version=OPSET, verbose=False)
    proto, _ = onnxsim.simplify(plain.model_proto)
    assert len(list(model.graph)) <= len(proto.graph.node)
