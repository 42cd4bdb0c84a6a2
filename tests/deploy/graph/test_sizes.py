from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from graphs import model, tensor, weight
from onnx import helper

from deploy.errors import InputError
from deploy.graph.sizes import fix_image_size


def graph(*shape: object) -> ir.Model:
    node = helper.make_node("Conv", ["image", "kernel"], ["out"], strides=[2, 2])
    proto = model(
        [node], [tensor("image", shape)], [tensor("out", ["N", 4, "h2", "w2"])], [weight("kernel", 4, 3, 1, 1)]
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@pytest.mark.parametrize("shape", [("N", 3, "H", "W"), ("N", 3, 32, "W"), (2, 3, "H", 64)])
def test_open_sides_are_closed_and_what_follows_is_known(shape):
    model = graph(*shape)
    fixed = fix_image_size(model, (32, 64))
    assert list(fixed.graph.inputs[0].shape[1:]) == [3, 32, 64]
    assert list(fixed.graph.outputs[0].shape[1:]) == [4, 16, 32]
    assert str(fixed.graph.inputs[0].shape[0]) == str(shape[0])
    assert list(model.graph.inputs[0].shape) == list(ir.Shape(shape))


def test_nothing_to_close():
    with pytest.raises(InputError, match=r"leaves its image size open \(got --image-size 32x32\). Leave it"):
        fix_image_size(graph("N", 3, 16, 16), (32, 32))
