"""Older opsets raised to the one that FP16 and INT8 graphs need."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from deploy.errors import InputError
from deploy.graph.irtools import MIN_OPSET

# onnx's converter knows the operators since then; older graphs come from tools of 2018.
OLDEST = 7
# Before this IR version every initializer had to be an input too.
_NO_INPUTS = 4


def opset_of(model: ir.Model) -> int:
    """The version of ONNX's own operators that the graph uses."""
    return model.opset_imports.get("", 0)


def lift(model: ir.Model) -> ir.Model:
    """``model`` at opset 19, by onnx's version converter; a graph that is there already is returned as it is.

    Weights in another file stay there. The input is not changed.

    Raises:
        InputError: the converter cannot.
    """
    opset = opset_of(model)
    if opset >= MIN_OPSET:
        return model
    outside = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    folders = {tensor.location: tensor.base_dir for tensor in outside if isinstance(tensor, ir.ExternalTensor)}
    proto = ir.to_proto(model)
    proto.ir_version = max(proto.ir_version, _NO_INPUTS)
    try:
        lifted: ir.Model = ir.from_proto(version_converter.convert_version(proto, MIN_OPSET))
    except (RuntimeError, ValueError, version_converter.ConvertError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"the graph cannot be raised from opset {opset}",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected=f"opset {OLDEST} or newer, in operators that onnx's version converter knows",
            fix=f"Export it again with opset {MIN_OPSET}.",
        ) from error
    for graph in lifted.graphs():  # a protobuf message does not say in which folder its weights lie
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.base_dir = folders[value.const_value.location]
    return lifted
