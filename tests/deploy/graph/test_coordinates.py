"""Boxes are computed in FP32 over an FP16 network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from detector import detector

from deploy.graph import files
from deploy.graph.coordinates import coordinate_nodes
from deploy.graph.fp16 import to_fp16
from deploy.graph.twin import twin


def far(model: ir.Model, by: float) -> ir.Model:
    """The same boxes, ``by`` pixels further right and down."""
    corners = model.graph.initializers["corners"]
    corners.const_value = ir.Tensor(corners.const_value.numpy() + np.float32(by), name="corners")
    return model


def boxes(model: ir.Model, feed: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(files.to_bytes(model)).run(["boxes"], {"input": feed})[0]


def test_it_is_the_arithmetic_back_to_the_split() -> None:
    found = coordinate_nodes(detector().graph)
    assert found == {f"{name}_node" for name in ("boxes", "sub", "add", "half", "squared", "middle", "step")}


def test_a_classifier_has_none(mini: ir.Model) -> None:
    assert coordinate_nodes(mini.graph) == set()


def test_coordinates_beyond_1024_keep_their_fractions() -> None:
    feed = np.random.default_rng(0).uniform(0, 1, (2, 3, 64, 64)).astype(np.float32)
    model = far(detector(), 1500)
    error = np.abs(boxes(twin(to_fp16(model)), feed) - boxes(model, feed))
    assert 1e-4 < error.mean() < 0.05, "FP16 has steps of 1 there, and the network before it is FP16"


def test_scores_and_the_network_are_fp16() -> None:
    types = {str(node.name): node.outputs[0].dtype for node in to_fp16(detector()).graph}
    assert types["head0_node"] == types["predictions_node"] == ir.DataType.FLOAT16
    assert types["scores_node"] == ir.DataType.FLOAT16
    assert types["sub_node"] == ir.DataType.FLOAT
