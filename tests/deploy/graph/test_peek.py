"""What is read off the bytes is what the onnx package reads."""

import onnx
import pytest
from onnx import TensorProto, helper

from deploy.graph import files
from deploy.graph.peek import operators


def of_onnx(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_operators_of_real_graphs(exported, int8, tmp_path, kind):
    graph = exported if kind == "fp32" else int8
    (tmp_path / "net.onnx").write_bytes(files.to_bytes(graph))
    assert operators(tmp_path / "net.onnx") == of_onnx(tmp_path / "net.onnx")
    assert ("QuantizeLinear" in operators(tmp_path / "net.onnx")) == (kind == "int8")


def test_every_kind_of_field(tmp_path):
    """Long lengths, doubles and floats in attributes, a weight whose bytes spell an operator, external data."""
    weight = helper.make_tensor("w", TensorProto.UINT8, [600], b'"\x04Cast' * 100, raw=True)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    node = helper.make_node("Elu", ["x"], ["y"], name="n" * 300, alpha=0.5, doc_string="Cast")
    graph = helper.make_graph([node], "QuantizeLinear", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, producer_name="p" * 20_000), tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx") == {"Elu"}
