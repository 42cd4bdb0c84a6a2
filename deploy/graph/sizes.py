"""Image axes that a graph leaves open, set to one size."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from deploy.errors import InputError


def fix_image_size(model: ir.Model, size: int) -> ir.Model:
    """A copy whose inputs ``[batch, channels, height, width]``, or channels last, have sides of ``size`` pixels.

    Raises:
        InputError: no input leaves such an axis open.
    """
    copy = model.clone()
    opened = [value for value in copy.graph.inputs if _is_open(value)]
    if not opened:
        raise InputError("no input leaves its image size open", got=f"--image-size {size}", fix="Leave it out.")
    for value in opened:
        assert value.shape is not None
        value.shape = ir.Shape([value.shape[0], *(dim if isinstance(dim, int) else size for dim in value.shape[1:])])
    _infer_again(copy)
    return copy


def _is_open(value: ir.Value) -> bool:
    shape = value.shape
    return shape is not None and len(shape) == 4 and not all(isinstance(dim, int) for dim in shape[1:])


def _infer_again(model: ir.Model) -> None:
    """What was inferred of inner tensors was for open axes."""
    ends = {value: value.shape for value in model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    ShapeInferencePass()(model)
    for value, shape in ends.items():
        value.shape = value.shape or shape
