from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime as ort
import onnxsim
import pytest
import torch
from torch import nn

from deploy.engine.build import build_engine
from deploy.engine.flavours import load_flavour
from deploy.specs import ShapeProfile
from models import create_model, get_spec, list_models
from models.settle import settle
from models.yolo_detect import Detect
from models.yolov5 import ANCHORS

NAMES = [name for name in list_models() if get_spec(name).family == "yolov5"]
EXPORTED = ("yolov5n", "yolov5s_efficientnetv2")
SIDE = 128


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "tensors", "strides"),
    [
        ("yolov5n", 349, (8, 16, 32)),
        ("yolov5s", 349, (8, 16, 32)),
        ("yolov5m", 481, (8, 16, 32)),
        ("yolov5l", 613, (8, 16, 32)),
        ("yolov5x", 745, (8, 16, 32)),
        ("yolov5s_efficientnetv2", 509, (16, 32, 64)),
        ("yolov5s_efficientnetv2_p3", 509, (8, 16, 32)),
    ],
)
def test_tensors_strides_and_predictions(name, tensors, strides):
    model, spec = on_meta(name), get_spec(name)
    assert len(model.state_dict()) == tensors
    assert model.detect.strides == strides
    assert spec.size_multiple == strides[-1]
    boxes, scores = model.eval()(torch.empty(2, 3, 640, 640, device="meta"))
    predictions = sum(3 * (640 // stride) ** 2 for stride in strides)
    assert predictions == (25200 if strides[0] == 8 else 6300)
    assert (boxes.shape, scores.shape) == ((2, predictions, 4), (2, predictions, 80))


def test_every_name_is_checked_here():
    assert len(NAMES) == 7


def keys(model, *numbers):
    """Weights and buffers of these layers, a norm standing for its five tensors."""
    names = [name for name in model.state_dict() if int(name.split(".")[1]) in numbers]
    norms = ("bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    return {name.removeprefix("model.") for name in names if not name.endswith(norms)}


def conv(*paths):
    return {f"{path}.{tensor}" for path in paths for tensor in ("conv.weight", "bn.weight")}


def test_keys_are_ultralytics():
    model = on_meta("yolov5s")
    assert keys(model, 0, 1) == conv("0", "1")
    one, two = conv("4.m.0.cv1", "4.m.0.cv2"), conv("4.m.1.cv1", "4.m.1.cv2")
    assert keys(model, 4) == conv("4.cv1", "4.cv2", "4.cv3") | one | two
    assert keys(model, 9) == conv("9.cv1", "9.cv2")
    assert keys(model, 11, 12, 15, 16, 19, 22) == set()
    heads = {f"24.m.{level}.{tensor}" for level in range(3) for tensor in ("weight", "bias")}
    assert keys(model, 24) == heads | {"24.anchors"}
    assert max(int(name.split(".")[1]) for name in model.state_dict()) == 24


def test_keys_of_the_efficientnetv2_backbone():
    model = on_meta("yolov5s_efficientnetv2")
    assert keys(model, 0) == conv("0")
    assert keys(model, 1) == conv("1.project_conv")
    assert keys(model, 2) == conv("2.expansion_conv", "2.project_conv")
    gate = {f"{name}.{tensor}" for name in ("se.conv_reduce", "se.conv_expand") for tensor in ("weight", "bias")}
    block = conv("expansion_conv", "dw_conv", "project_conv") | gate
    assert keys(model, 6) == {f"6.{key}" for key in block}
    assert keys(model, 7) == {f"7.{number}.{key}" for number in range(2) for key in block}
    assert {key.split(".")[1] for key in keys(model, 11)} == set("01234")
    assert "27.anchors" in keys(model, 27)


@pytest.mark.parametrize("name", NAMES)
def test_anchors_are_stored_in_units_of_the_stride(name):
    detect = create_model(name, num_classes=1).detect
    pixels = detect.anchors * torch.tensor(detect.strides).view(3, 1, 1)
    assert torch.equal(pixels, torch.tensor(ANCHORS, dtype=torch.float32))


@pytest.mark.parametrize("name", NAMES)
def test_norms_are_ultralytics(name):
    norms = [module for module in on_meta(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def decoded(maps, strides):
    """Boxes and scores by YOLOv5's formulas, one prediction after the other."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x.astype(np.float64)))

    boxes, scores = [], []
    for anchor in range(3):
        for level, stride, anchors in zip(maps, strides, ANCHORS, strict=True):
            for row, column in np.ndindex(level.shape[1:3]):
                x, y, w, h, objectness, *classes = sigmoid(level[anchor, row, column])
                x, y = (2 * x - 0.5 + column) * stride, (2 * y - 0.5 + row) * stride
                w, h = (2 * w) ** 2 * anchors[anchor][0], (2 * h) ** 2 * anchors[anchor][1]
                boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
                scores.append(objectness * np.array(classes))
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("strides", [(8, 16, 32), (16, 32, 64)])
def test_decode(strides):
    torch.manual_seed(0)
    detect = Detect([4, 5, 6], strides, ANCHORS, num_classes=3)
    maps = [3 * torch.randn(2, 4 + i, *size) for i, size in enumerate([(8, 12), (4, 6), (2, 3)])]
    with torch.inference_mode():
        raw = detect.train()(*maps)
        boxes, scores = detect.eval()(*maps)
    assert [tuple(level.shape) for level in raw] == [(2, 3, 8, 12, 8), (2, 3, 4, 6, 8), (2, 3, 2, 3, 8)]
    for image in range(2):
        expected = decoded([level[image].numpy() for level in raw], strides)
        np.testing.assert_allclose(boxes[image].numpy(), expected[0], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(scores[image].numpy(), expected[1], rtol=1e-4, atol=1e-6)


def test_anchors_of_a_checkpoint_count():
    detect = Detect([4], [8], [[(10, 20)]], num_classes=2).eval()
    features = torch.zeros(1, 4, 1, 1)
    before = detect(features)[0]
    detect.load_state_dict({**detect.state_dict(), "anchors": 2 * detect.anchors})
    after = detect(features)[0]
    torch.testing.assert_close(after[..., 2:] - after[..., :2], 2 * (before[..., 2:] - before[..., :2]))


@pytest.mark.parametrize("name", EXPORTED)
def test_trains(name):
    model = create_model(name, num_classes=2)
    maps = model(torch.randn(2, 3, 64, 64))
    sides = [64 // stride for stride in model.detect.strides]
    assert [tuple(level.shape) for level in maps] == [(2, 3, side, side, 7) for side in sides]
    sum(level.square().mean() for level in maps).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.fixture(scope="module", params=EXPORTED)
def exported(request):
    """A settled network and its graph as the exporter leaves it, dynamic batch."""
    model = create_model(request.param)
    settle(model, (SIDE, SIDE), transform=get_spec(request.param).transform)
    program = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        input_names=["input"],
        output_names=["boxes", "scores"],
        opset_version=19,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    return model, program.model_proto


@pytest.fixture(scope="module")
def simplified(exported):
    graph, done = onnxsim.simplify(exported[1])
    assert done
    return graph


@pytest.mark.parametrize("rows", [1, 3])
def test_the_graph_equals_pytorch_for_any_batch(exported, simplified, rows):
    images = torch.rand(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        boxes, scores = exported[0](images)
    session = ort.InferenceSession(simplified.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores"], {"input": images.numpy()})
    assert scores.max() > 0.25
    np.testing.assert_allclose(found[0], boxes.numpy(), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found[1], scores.numpy(), rtol=1e-3, atol=1e-4)


def test_the_decode_is_sixteen_nodes_and_no_shape_arithmetic(simplified):
    nodes = list(simplified.graph.node)
    operators = Counter(node.op_type for node in nodes)
    network = {
        "Conv",
        "Sigmoid",
        "Mul",
        "Add",
        "Relu",
        "Concat",
        "MaxPool",
        "Resize",
        "ReduceMean",
        "GlobalAveragePool",
    }
    assert set(operators) - network == {"Reshape", "Transpose", "Split", "Sub"}
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    decode = Counter(node.op_type for node in nodes[last + 1 :])
    assert decode == {"Reshape": 4, "Concat": 2, "Transpose": 1, "Sigmoid": 1, "Split": 1, "Mul": 4, "Add": 2, "Sub": 1}


def test_the_exporter_needs_no_help_with_constants(exported):
    """Grid and anchors are constants before simplification already."""
    assert not {"Range", "Expand", "Shape", "Gather", "Tile"} & {node.op_type for node in exported[1].graph.node}


def test_tensorrt_rtx_builds_it(simplified):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    built = build_engine(
        simplified.SerializeToString(), flavour=load_flavour("tensorrt_rtx"), batch=ShapeProfile(1, 2, 4)
    )
    assert built.plan
    assert built.warnings == ()
