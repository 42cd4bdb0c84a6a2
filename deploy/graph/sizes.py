"""Image axes that a graph leaves open, set to one size."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from deploy.errors import InputError


def fix_image_size(model: ir.Model, size: tuple[int, int]) -> ir.Model:
    """A copy whose image inputs, channels first or last, are of ``size`` (height, width) where they leave it open.

    Raises:
        InputError: no input leaves such an axis open.
    """
    copy = model.clone()
    opened = [value for value in copy.graph.inputs if _is_open(value)]
    if not opened:
        raise InputError(
            "no input leaves its image size open", got=f"--image-size {size[0]}x{size[1]}", fix="Leave it out."
        )
    for value in opened:
        assert value.shape is not None
        batch, *rest = value.shape
        wanted = (*size, 3) if rest[2] == 3 and rest[0] != 3 else (3, *size)
        value.shape = ir.Shape([batch, *(dim if isinstance(dim, int) else new for dim, new in zip(rest, wanted))])
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
