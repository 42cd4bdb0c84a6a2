from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import old_graph

from deploy.errors import InputError
from deploy.graph.lift import lift, opset_of


def run(model: ir.Model, feed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: feed})[0]


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17, 18])
def test_old_graphs_compute_the_same(opset):
    model = ir.from_proto(old_graph(opset))
    before = ir.to_proto(model).SerializeToString()
    lifted = lift(model)
    assert (opset_of(model), opset_of(lifted)) == (opset, 19)
    onnx.checker.check_model(ir.to_proto(lifted))
    images = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(run(lifted, images), run(model, images), rtol=1e-5, atol=1e-6)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("opset", [19, 20, 21, 22])
def test_newer_graphs_stay_as_they_are(opset):
    model = ir.from_proto(old_graph(opset))
    assert lift(model) is model


@pytest.mark.parametrize("ir_version", [3, 6, 10])
def test_the_ir_version_allows_weights_that_are_no_inputs(ir_version):
    assert lift(ir.from_proto(old_graph(13, ir_version=ir_version))).ir_version == max(ir_version, 4)


def test_what_the_converter_refuses():
    with pytest.raises(InputError, match=r"cannot be raised from opset 6 \(got .* Export it again with opset 19"):
        lift(ir.from_proto(old_graph(6)))
