from __future__ import annotations

import json

import onnx_ir as ir
import pytest
from onnx import helper

from deploy.graph.files import to_bytes
from deploy.graph.naming import clear_traces, name_by_module

SCOPES = "pkg.torch.onnx.name_scopes"


def _scope(node, *modules):
    """What torch.onnx stores: modules outside in, then the call itself."""
    node.metadata_props[SCOPES] = json.dumps(["", *modules, node.op_type.lower()])


def test_convolutions_are_named_by_their_weight(mini):
    for node in mini.graph:
        _scope(node, "elsewhere")
    name_by_module(mini)
    named = [node.name for node in mini.graph if node.op_type in ("Conv", "Gemm")]
    weights = ["stem_conv", "wide_conv", "deep_conv", "fc1", "fc2", "project", "narrow_conv", "left_conv", "right_conv"]
    assert named == [*(f"{name}/Conv" for name in (*weights, "top_conv")), "head/Gemm"]


def test_others_are_named_by_their_scope_and_numbered_where_it_repeats(mini):
    relus = [node for node in mini.graph if node.op_type == "Relu"]
    for node in relus:
        _scope(node, "features", "features.3")
    name_by_module(mini)
    numbers = ["", *(f"_{number}" for number in range(2, len(relus) + 1))]
    assert [node.name for node in relus] == [f"features.3/Relu{number}" for number in numbers]


def test_a_node_without_scope_is_named_by_its_operator(mini):
    name_by_module(mini)
    assert next(node for node in mini.graph if node.op_type == "Concat").name == "Concat"


def test_a_split_without_scope_is_named_by_the_module_of_its_readers(net):
    net.op("Relu", "left", "left_half")
    net.op("Relu", "right", "right_half")
    net.nodes.insert(0, helper.make_node("Split", ["input"], ["left_half", "right_half"], axis=2, num_outputs=2))
    model = net.model(net.op("Concat", "out", "left_half", "left", "right", axis=1), ["batch", 9, 8, 16])
    split, left, right, concat = model.graph
    _scope(left, "stage2", "stage2.1", "stage2.1.branch")
    _scope(right, "stage2", "stage2.1", "stage2.1.branch", "stage2.1.branch.0")
    _scope(concat, "stage2", "stage2.1")
    name_by_module(model)
    assert split.name == "stage2.1/Split"


def test_every_name_is_unique_and_tensors_follow_their_node(mini, images, run):
    expected = run(mini, images)["logits"]
    name_by_module(mini)
    nodes = [node.name for node in mini.graph]
    assert len(set(nodes)) == len(nodes)
    inner = [node for node in mini.graph if not node.outputs[0].is_graph_output()]
    assert [node.outputs[0].name for node in inner] == [node.name for node in inner]
    assert (run(mini, images)["logits"] == expected).all()


def test_inputs_and_outputs_keep_their_names(mini):
    name_by_module(mini)
    assert [value.name for value in (*mini.graph.inputs, *mini.graph.outputs)] == ["input", "logits"]


def test_further_outputs_are_numbered(net):
    net.op("Relu", "logits", "input")
    net.nodes[-1:] = [
        ir.to_proto(
            ir.Node(
                "",
                "Split",
                [ir.Value(name="input")],
                [ir.AttrInt64("axis", 2), ir.AttrInt64("num_outputs", 2)],
                outputs=[ir.Value(name="upper"), ir.Value(name="lower")],
                name="split",
            )
        ),
    ]
    net.op("Add", "logits", "upper", "lower")
    model = net.model("logits", ["batch", 3, 8, 16])
    name_by_module(model)
    assert [value.name for value in model.graph[0].outputs] == ["Split", "Split:1"]


def test_constants_of_the_exporter_are_named_by_their_first_reader(mini):
    axes = mini.graph.initializers["axes"]
    axes.name = "val_7"
    kept = {name for name in mini.graph.initializers if not name.startswith("val_")}
    name_by_module(mini)
    assert axes.name == "ReduceMean:in1"
    assert set(mini.graph.initializers) == kept | {"ReduceMean:in1"}


@pytest.fixture
def traced(mini):
    """The mini network with a secret wherever ONNX has room for one."""
    mini.metadata_props["secret"] = mini.graph.metadata_props["secret"] = "secret"
    mini.doc_string = mini.graph.doc_string = "secret"
    outputs = [value for node in mini.graph for value in node.outputs]
    for holder in (*mini.graph, *mini.graph.inputs, *outputs, *mini.graph.initializers.values()):
        holder.metadata_props["secret"] = holder.doc_string = "secret"
    return mini


def test_no_trace_is_left(traced, images, run):
    expected = run(traced, images)["logits"]
    assert b"secret" in to_bytes(traced)
    clear_traces(traced)
    assert b"secret" not in to_bytes(traced)
    assert (run(traced, images)["logits"] == expected).all()
