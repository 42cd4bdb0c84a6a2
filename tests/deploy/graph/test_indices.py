from __future__ import annotations

import numpy as np
import onnx_ir as ir
from graphs import constant, model, tensor, weight
from onnx import TensorProto, helper

from deploy.graph.indices import index_limits

node = helper.make_node


def test_integers_are_followed_to_the_smallest_table():
    nodes = [
        node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        node("Unsqueeze", ["wide", "axis"], ["more"]),
        node("Gather", ["large", "more"], ["a"]),
        node("Gather", ["small", "wide"], ["b"], axis=1),
        node("Cast", ["mask"], ["c"], to=TensorProto.FLOAT),
        node("Gather", ["image", "first"], ["d"], axis=1),
    ]
    inputs = [tensor("ids", ["N"], TensorProto.INT32), tensor("mask", ["N"], TensorProto.INT64)]
    inputs.append(tensor("image", ["N", 3]))
    weights = [weight("large", 50, 4), weight("small", 7, 30)]
    weights += [constant("axis", [1], np.int64), constant("first", [0], np.int64)]
    graph = ir.from_proto(model(nodes, inputs, [tensor(name, None) for name in "abcd"], weights))
    assert index_limits(graph) == {"ids": 30}
