"""TensorFlow's padding becomes an attribute of convolutions: no Pad is left for TensorRT to run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from deploy.graph.export import export_graph
from deploy.graph.simplify import simplify
from deploy.specs import image_input
from models import create_model
from models.settle import settle


@pytest.fixture(scope="module")
def network():
    model = create_model("mobilenet_v3_small", num_classes=10, padding="same")
    settle(model, (64, 64))
    return model


# Pads of the first convolution: top, left, bottom, right.
@pytest.mark.parametrize(("size", "pads"), [((64, 64), [0, 0, 1, 1]), ((50, 65), [0, 1, 1, 1])])
def test_it_is_in_the_convolutions(network, size, pads):
    graph = simplify(export_graph(network, [image_input(size)], ["logits"]))
    assert "Pad" not in {node.op_type for node in graph.graph}
    first = next(node for node in graph.graph if node.op_type == "Conv")
    assert list(first.attributes["pads"].as_ints()) == pads

    images = torch.randn(3, 3, *size)
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    with torch.inference_mode():
        expected = network(images).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_leaves_nothing():
    model = create_model("efficientnet_b0", stochastic_depth=0.5)
    graph = export_graph(model, [image_input((32, 32))], ["logits"])
    kinds = {node.op_type for node in graph.graph}
    assert kinds == {"Conv", "Sigmoid", "Mul", "ReduceMean", "Add", "Reshape", "Gemm"}
