"""Non-maximum suppression as the tail of a detector's graph: attached, found again, taken off.

``boxes`` and ``scores`` become one output ``detections[batch, rows, 6]``: x1, y1, x2, y2, score and class, best first,
zeros where nothing more was found. Its shape is fixed, so that Triton, trtexec and every runner can serve it. The tail
selects what :func:`deploy.images.nms.select` does.

Precision passes and comparisons see the graph without it: it always computes in FP32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import Array, add_initializer, constant, drop_unused_initializers
from deploy.images.detect import BOXES, DETECTIONS, SCORES
from deploy.specs import NmsSettings, TensorSpec

# TensorRT's TopK gives no more.
MOST_DETECTIONS = 3840
# Of every node of the tail: that is how it is found again.
_PREFIX = "nms/"
_INNER = np.array([1, 2], np.int64)


def attach_nms(model: ir.Model, settings: NmsSettings) -> ir.Model:
    """A copy of a detector's ``model`` that ends in non-maximum suppression.

    With fewer predictions than ``max_detections`` there are as many rows as predictions.

    Raises:
        InputError: the outputs are not ``boxes[batch, n, 4]`` and ``scores[batch, n, classes]`` of known ``n`` and
            classes, or there are more detections than :data:`MOST_DETECTIONS`.
    """
    if settings.max_detections > MOST_DETECTIONS:
        expected = f"at most {MOST_DETECTIONS}"
        raise InputError("TensorRT sorts no more detections", got=settings.max_detections, expected=expected)
    result = model.clone()
    graph = result.graph
    boxes, scores, batch, predictions, classes = _outputs(graph)
    rows = min(settings.max_detections, predictions)
    graph.outputs.clear()
    graph.outputs.append(_Tail(graph).detections(boxes, scores, classes, rows, settings))
    graph.outputs[0].type, graph.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, rows, 6])
    return result


def detach_nms(model: ir.Model) -> tuple[ir.Model, NmsSettings | None]:
    """A copy without the tail of :func:`attach_nms`, and the tail's settings; ``model`` itself and None without one."""
    if _suppression(model.graph) is None:
        return model, None
    result = model.clone()
    graph = result.graph
    suppression = _suppression(graph)
    assert suppression is not None
    settings = _settings(suppression)
    (best,) = (node for node in graph if node.name == f"{_PREFIX}best")
    outputs = [suppression.inputs[0], best.inputs[0]]
    graph.outputs.clear()
    graph.outputs.extend(value for value in outputs if value is not None)
    for node in reversed([node for node in graph if str(node.name).startswith(_PREFIX)]):
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)
    return result, settings


def detections_spec(scores: TensorSpec, settings: NmsSettings) -> TensorSpec:
    """The output that takes the place of a detector's, by its output ``scores``."""
    batch, predictions, _ = scores.shape
    rows = min(settings.max_detections, predictions) if isinstance(predictions, int) else settings.max_detections
    return TensorSpec(DETECTIONS, "float32", (batch, rows, 6))


def _suppression(graph: ir.Graph) -> ir.Node | None:
    return next((node for node in graph if node.name == f"{_PREFIX}selected"), None)


def _settings(suppression: ir.Node) -> NmsSettings:
    most, iou, score = (constant(value) for value in suppression.inputs[2:5])
    assert most is not None
    assert iou is not None
    assert score is not None
    # FP32's 0.45 is not Python's: through its shortest spelling it is what was typed.
    return NmsSettings(float(str(score.reshape(-1)[0])), float(str(iou.reshape(-1)[0])), int(most.item()))


def _outputs(graph: ir.Graph) -> tuple[ir.Value, ir.Value, int | ir.SymbolicDim, int, int]:
    """``boxes``, ``scores``, and the numbers of images, predictions and classes."""
    by_name = {str(value.name): value for value in graph.outputs}
    if set(by_name) == {BOXES, SCORES}:
        boxes, scores = by_name[BOXES], by_name[SCORES]
        if scores.shape is not None and boxes.shape is not None and len(scores.shape) == len(boxes.shape) == 3:
            batch, predictions, classes = scores.shape
            if isinstance(predictions, int) and isinstance(classes, int) and boxes.shape[1:] == (predictions, 4):
                return boxes, scores, batch, predictions, classes
    raise InputError(
        "NMS is for detectors",
        got=", ".join(f"{value.name}{value.shape}" for value in graph.outputs),
        expected=f"the outputs {BOXES}[batch, n, 4] and {SCORES}[batch, n, classes]",
        fix="Leave out --nms.",
    )


class _Tail:
    """Writes the nodes. Shapes in comments: B images, P predictions, C classes, N found in all images, K rows."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def detections(self, boxes: ir.Value, scores: ir.Value, classes: int, rows: int, settings: NmsSettings) -> ir.Value:
        op, const = self._op, self._constant
        last = const("last_axis", np.array([2], np.int64))
        zero = const("zero", np.zeros((), np.float32))
        best = op("ReduceMax", "best", [scores, last], keepdims=0)  # [B, P]
        index = op("ArgMax", "index", [scores], axis=2, keepdims=1)  # [B, P, 1]
        # Each box counts for its best class alone. One class at a time is exact; moving the boxes of a class by an
        # offset of its own, so that they meet no others, rounds them: FP32 has steps of 0.03 at 80 classes.
        own = op("Equal", "own", [index, const("classes", np.arange(classes, dtype=np.int64))])  # [B, P, C]
        by_class = op("Transpose", "by_class", [op("Where", "masked", [own, scores, zero])], perm=[0, 2, 1])
        selected = op(
            "NonMaxSuppression",
            "selected",
            [
                boxes,
                by_class,
                const("max_detections", np.array([settings.max_detections], np.int64)),
                const("iou_threshold", np.array([settings.iou_threshold], np.float32)),
                const("score_threshold", np.array([settings.score_threshold], np.float32)),
            ],
        )  # [N, 3]: image, class, box
        place = op("Gather", "place", [selected, const("image_and_box", np.array([0, 2], np.int64))], axis=1)  # [N, 2]
        # From here on shapes are fixed again: the scores of those selected, in a field of zeros.
        empty = op("Mul", "empty", [best, zero])
        kept = op("ScatterND", "kept", [empty, place, op("GatherND", "found", [best, place])])  # [B, P]
        number = op("Gather", "class", [const("numbers", np.arange(classes, dtype=np.float32)), index])  # [B, P, 1]
        table = op("Concat", "table", [boxes, op("Unsqueeze", "score", [kept, last]), number], axis=2)  # [B, P, 6]
        top = op("TopK", "top", [kept, const("most_rows", np.array([rows], np.int64))], outputs=2, axis=1)  # [B, K]
        order = op("Unsqueeze", "order", [top.producer().outputs[1], last])  # type: ignore[union-attr]
        ordered = op("GatherND", "ordered", [table, order], batch_dims=1)  # [B, K, 6]
        found = op("Greater", "is_found", [op("Unsqueeze", "top_score", [top, last]), zero])
        # An overflow would select nothing and look like an empty image: so NaN and infinity reach every row of theirs.
        alarm = op("Add", "alarm", [self._zeros(boxes, zero), self._zeros(scores, zero)])  # [B, 1, 1]
        detections = op("Add", DETECTIONS, [op("Where", "rows", [found, ordered, zero]), alarm])
        detections.name = DETECTIONS
        return detections

    def _zeros(self, value: ir.Value, zero: ir.Value) -> ir.Value:
        """0 for each image, NaN where a number of it is not finite."""
        product = self._op("Mul", f"{value.name}_by_zero", [value, zero])
        return self._op("ReduceSum", f"{value.name}_alarm", [product, self._constant(f"{value.name}_axes", _INNER)])

    def _op(self, kind: str, name: str, inputs: Sequence[ir.Value], outputs: int = 1, **attributes: object) -> ir.Value:
        written = ir.node(kind, inputs, attributes, num_outputs=outputs, name=f"{_PREFIX}{name}")  # type: ignore[arg-type]
        for number, value in enumerate(written.outputs):
            value.name = f"{_PREFIX}{name}" + (f"/{number}" if number else "")
        self._graph.append(written)
        return written.outputs[0]

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self._graph, f"{_PREFIX}{name}", array)
