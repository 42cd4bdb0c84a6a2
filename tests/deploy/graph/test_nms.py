"""NMS in the graph selects what NMS on the host does, and comes off again without a trace."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from detector import CLASSES, LETTERBOX, PREDICTIONS, detector
from onnx import TensorProto, helper

from deploy.engine.build import build_engine
from deploy.engine.flavours import load_flavour
from deploy.errors import InputError
from deploy.graph import files
from deploy.graph.fp16 import to_fp16
from deploy.graph.nms import MOST_DETECTIONS, attach_nms, detach_nms, detections_spec
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.graph.twin import twin
from deploy.images.nms import select
from deploy.images.preprocess import preprocess
from deploy.images.synthetic import synthetic_images
from deploy.specs import NmsSettings, Preprocessing, ShapeProfile, TensorSpec


def predictor(boxes: int, classes: int, batch: int | str = "batch") -> ir.Model:
    """A detector that answers what it is fed: ``input[batch, boxes, 4 + classes]``."""
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [4, classes])
    nodes = [helper.make_node("Split", ["input", "sizes"], ["boxes", "scores"], name="split", axis=2)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "predictor",
        [info("input", TensorProto.FLOAT, [batch, boxes, 4 + classes])],
        [
            info("boxes", TensorProto.FLOAT, [batch, boxes, 4]),
            info("scores", TensorProto.FLOAT, [batch, boxes, classes]),
        ],
        [sizes],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10))


def run(model: ir.Model, feed: np.ndarray) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, {"input": feed})))


def on_the_host(outputs: dict[str, np.ndarray], settings: NmsSettings, rows: int) -> np.ndarray:
    table = np.zeros((len(outputs["boxes"]), rows, 6), np.float32)
    for image, predicted in zip(table, zip(outputs["boxes"], outputs["scores"])):
        boxes, classes, scores = select(*predicted, settings)
        image[: len(scores)] = np.column_stack([boxes, scores, classes])
    return table


def random_predictions(seed: int, rows: int, boxes: int, classes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(0, 640, (rows, boxes, 2)), rng.uniform(20, 300, (rows, boxes, 2))
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=2)
    scores = rng.uniform(0, 1, (rows, boxes, classes)) ** 3
    scores[:, ::9] = scores[:, :1]  # equal ones
    return {"boxes": corners.astype(np.float32), "scores": scores.astype(np.float32)}


def images(count: int, how: Preprocessing = LETTERBOX) -> np.ndarray:
    return np.stack([preprocess(image, how) for image in synthetic_images(count, (72, 80))])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("boxes", "classes", "settings"),
    [
        (400, 3, NmsSettings()),
        (400, 80, NmsSettings(0.1, 0.6, 50)),
        (400, 1, NmsSettings(0.0, 0.3, 300)),
        (40, 5, NmsSettings()),  # fewer predictions than rows asked for
        (400, 4, NmsSettings(1.0)),  # nothing
        (400, 4, NmsSettings(0.05, 1.0, 10)),  # nothing suppressed, and cut
        (400, 4, NmsSettings(0.05, 0.0, 300)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_it_selects_what_the_host_does(rows: int, boxes: int, classes: int, settings: NmsSettings) -> None:
    made = random_predictions(boxes + rows, rows, boxes, classes)
    feed = np.concatenate([made["boxes"], made["scores"]], axis=2)
    ours = run(attach_nms(predictor(boxes, classes), settings), feed)
    assert list(ours) == ["detections"]
    wanted = on_the_host(made, settings, min(settings.max_detections, boxes))
    np.testing.assert_array_equal(ours["detections"], wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(1, 7, 2), (1, 7, 5)], ids=["boxes", "scores"])
def test_what_is_not_finite_does_not_look_like_an_empty_image(place: tuple[int, ...], bad: float) -> None:
    made = random_predictions(0, 3, 40, 3)
    feed = np.concatenate([made["boxes"], made["scores"]], axis=2)
    feed[place] = bad
    found = run(attach_nms(predictor(40, 3), NmsSettings()), feed)["detections"]
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_the_shape_is_fixed_but_for_the_batch() -> None:
    settings = NmsSettings(0.05, 0.45, 100)
    model = attach_nms(detector(), settings)
    (output,) = ir.to_proto(model).graph.output
    dims = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert dims == ["batch", 100, 6]
    scores = TensorSpec("scores", "float32", ("batch", PREDICTIONS, CLASSES))
    assert detections_spec(scores, settings) == TensorSpec("detections", "float32", ("batch", 100, 6))
    for rows in (1, 3):
        assert run(model, images(rows))["detections"].shape == (rows, 100, 6)


def test_a_fixed_batch_stays_fixed() -> None:
    model, made = attach_nms(predictor(40, 3, batch=2), NmsSettings()), random_predictions(0, 2, 40, 3)
    assert list(model.graph.outputs[0].shape) == [2, 40, 6]
    feed = np.concatenate([made["boxes"], made["scores"]], axis=2)
    np.testing.assert_array_equal(run(model, feed)["detections"], on_the_host(made, NmsSettings(), 40))


@pytest.mark.parametrize("settings", [NmsSettings(), NmsSettings(0.001, 0.65, 17), NmsSettings(0.333, 0.7, 3000)])
def test_it_comes_off_without_a_trace(settings: NmsSettings) -> None:
    before = files.to_bytes(detector())
    whole = ir.from_proto(onnx.load_from_string(files.to_bytes(attach_nms(detector(), settings))))
    core, found = detach_nms(whole)
    assert found == settings
    assert files.to_bytes(core) == before
    assert "detections" in {value.name for value in whole.graph.outputs}, "what is given is not changed"


def test_a_graph_without_nms_is_left_as_it_is() -> None:
    model = detector()
    assert detach_nms(model) == (model, None)


@pytest.mark.parametrize(
    "make", [lambda model: to_fp16(model), lambda model: twin(to_fp16(model))], ids=["fp16", "twin"]
)
def test_it_goes_on_top_of_any_precision(make) -> None:
    settings = NmsSettings(0.05)
    core = make(detector())
    plain, whole = run(core, images(3)), run(attach_nms(core, settings), images(3))
    np.testing.assert_array_equal(whole["detections"], on_the_host(plain, settings, 300))
    assert (whole["detections"][..., 4] > 0).sum() > 10


def test_the_twin_of_a_graph_with_nms_is_its_cores_twin_with_nms() -> None:
    core, settings = to_fp16(detector()), NmsSettings(0.05)
    one, other = twin(attach_nms(core, settings)), attach_nms(twin(core), settings)
    np.testing.assert_array_equal(run(one, images(2))["detections"], run(other, images(2))["detections"])


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        (["scores"], r"NMS is for detectors \(got scores.*expected the outputs boxes\[batch, n, 4\]"),
        (["boxes", "middle"], "NMS is for detectors"),
    ],
)
def test_what_is_no_detector(outputs: list[str], error: str) -> None:
    model = detector()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in outputs)
    with pytest.raises(InputError, match=error):
        attach_nms(model, NmsSettings())


def test_more_than_tensorrt_sorts() -> None:
    with pytest.raises(InputError, match=r"sorts no more detections \(got 3841; expected at most 3840\)"):
        attach_nms(detector(), NmsSettings(max_detections=MOST_DETECTIONS + 1))


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    return load_flavour("tensorrt_rtx")


def int8(model: ir.Model) -> ir.Model:
    placement = place(model)
    return to_fp16(insert_qdq(model, placement, dict.fromkeys(placement.tensors, 4.0)))


@pytest.mark.parametrize("make", [lambda model: model, to_fp16, int8], ids=["fp32", "fp16", "int8"])
def test_nvidias_builder_takes_all_but_the_operator_itself(rtx, make) -> None:
    """What follows the operator is fed here in its place."""
    proto = ir.to_proto(attach_nms(make(detector()), NmsSettings()))
    (operator,) = [node for node in proto.graph.node if node.op_type == "NonMaxSuppression"]
    proto.graph.input.append(helper.make_tensor_value_info(operator.output[0], TensorProto.INT64, [50, 3]))
    proto.graph.node.remove(operator)
    assert build_engine(proto.SerializeToString(), flavour=rtx, batch=ShapeProfile(1, 2, 4)).plan


def test_tensorrt_rtx_parses_the_operator_and_has_no_kernel_for_it(rtx) -> None:
    """When this fails, TensorRT-RTX has learnt it: give it ``nms`` in deploy/engine/flavours.py."""
    assert not rtx.can.nms
    with pytest.raises(InputError, match=r"cannot build this graph .*nms/selected\w* has no runners"):
        build_engine(files.to_bytes(attach_nms(detector(), NmsSettings())), flavour=rtx, batch=ShapeProfile(1, 2, 4))
