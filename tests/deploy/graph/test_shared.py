"""Which tensors correspond, and what the precise graph does between them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq, scale_of
from deploy.graph.shared import shared_tensors
from deploy.graph.twin import twin


def found(reference, precise):
    return {shared.name: shared for shared in shared_tensors(reference.graph, twin(precise).graph)}


@pytest.fixture
def int8(mini, ranges):
    placement = place(mini)
    return to_fp16(insert_qdq(mini, placement, ranges(mini, placement.tensors)))


def test_every_computed_tensor_of_the_fp32_graph_is_found_in_its_order(mini, int8):
    names = [value.name for node in mini.graph for value in node.outputs]
    assert list(found(mini, to_fp16(mini))) == list(found(mini, int8)) == names


def test_sources_are_the_nearest_shared_tensors(mini, int8):
    shared = found(mini, int8)
    assert shared["stem_conv"].sources == ("input",)
    assert set(shared["scaled"].sources) == {"gate", "deep"}
    assert set(shared["block"].sources) == {"project", "stem"}
    assert shared["logits"].sources == ("flat",)


def test_quantizers_are_those_of_the_layers_inputs(mini, int8, ranges):
    shared = found(mini, int8)
    (of_wide,) = shared["wide_conv"].quantizers
    (of_block,) = shared["block"].quantizers
    assert of_wide == of_block  # one pair serves both readers
    amax = ranges(mini, ("stem",))["stem"]
    assert (of_wide.tensor, of_wide.scale) == ("stem", float(scale_of(amax)))
    assert of_wide.clip == 127 * of_wide.scale
    assert shared["fc1"].quantizers == ()


def test_layers_are_what_has_weights_or_quantized_inputs(mini, int8):
    layers = {name for name, shared in found(mini, int8).items() if shared.is_layer}
    weighted = {str(node.outputs[0].name) for node in mini.graph if node.op_type in ("Conv", "Gemm")}
    assert layers == weighted | {"block"}
    assert {name for name, shared in found(mini, to_fp16(mini)).items() if shared.is_layer} == weighted


def test_what_is_held_in_fp16(mini):
    shared = found(mini, to_fp16(mini, ["top_conv_node", "top_node"]))
    assert not shared["top_conv"].fp16
    assert not shared["top"].fp16
    assert shared["joined"].fp16
    assert shared["logits"].fp16  # rounded before the Cast that makes it an FP32 output


@pytest.mark.parametrize(("zero_point", "levels"), [(np.uint8(128), 127), (np.uint8(0), 255), (np.int8(0), 127)])
def test_the_clip_of_other_zero_points(mini, int8, zero_point, levels):
    value = int8.graph.initializers["int8_zero_point"]
    value.const_value = ir.Tensor(np.array(zero_point), name=value.name)
    (quantizer,) = found(mini, int8)["wide_conv"].quantizers
    assert quantizer.clip == levels * quantizer.scale


def test_a_tensor_of_another_shape_is_another_tensor(mini, net):
    other = to_fp16(mini)
    for node in other.graph:
        for value in node.outputs:
            if value.name == "top":
                value.shape = ir.Shape(["batch", 64, 8, 8])
    assert "top" not in found(mini, other)
    assert found(mini, other)["average"].sources == ("top_conv",)


def test_foreign_names_are_refused(mini):
    foreign = mini.clone()
    for node in foreign.graph:
        for value in node.outputs:
            value.name = f"their_{value.name}" if value.name != "logits" else "logits"
    with pytest.raises(InputError) as raised:
        found(mini, to_fp16(foreign))
    assert raised.value.headline == (
        "the graphs have no layers in common that could be compared (got 1 tensors of the same name, none of them a "
        "layer's inside the graph; expected the names of the reference, such as 'stem_conv'). Give the .onnx file that "
        "the FP16 or INT8 graph was made from."
    )


def test_one_layer_is_enough_for_a_graph_of_one(net):
    single = net.model(net.conv("out", "input", (3, 16)), ["batch", 16, 16, 16])
    assert list(found(single, to_fp16(single))) == ["out"]
