from __future__ import annotations

import onnx_ir as ir
import pytest

from deploy.graph.macs import node_macs
from deploy.quantize.units import Unit, units_of


@pytest.fixture
def layers(mini: ir.Model) -> list[str]:
    return [str(node.name) for node in mini.graph if node.op_type in ("Conv", "Gemm")]


def test_a_unit_for_each_layer(mini: ir.Model, layers: list[str]):
    found = units_of(mini.graph, layers)
    assert [unit.layers for unit in found] == [(name,) for name in layers]
    assert [unit.macs for unit in found] == [node_macs(node) for node in mini.graph if node.name in layers]
    assert found[0].macs == 16 * 16 * 16 * 27


def test_only_the_layers_that_were_named(mini: ir.Model, layers: list[str]):
    assert [unit.name for unit in units_of(mini.graph, layers[2:4])] == layers[2:4]


@pytest.mark.parametrize("most", range(1, 12))
def test_never_more_than_asked_for_and_no_layer_lost(mini: ir.Model, layers: list[str], most: int):
    found = units_of(mini.graph, layers, most)
    assert len(found) == min(most, len(layers))
    assert [name for unit in found for name in unit.layers] == layers
    assert sum(unit.macs for unit in found) == sum(unit.macs for unit in units_of(mini.graph, layers))


def test_layers_of_a_block_are_joined_first(mini: ir.Model, layers: list[str]):
    """From the skip of the residual block to its Add there is more than one tensor on the way."""
    block = ("wide_conv_node", "deep_conv_node", "fc1_node", "fc2_node", "project_node")
    found = units_of(mini.graph, layers, len(layers) - 4)
    assert [unit.layers for unit in found if len(unit.layers) > 1] == [block]


def test_names():
    assert Unit(("conv",), 1).name == "conv"
    assert Unit(("conv", "middle", "last"), 1).name == "conv … last (3 layers)"
