"""How far the tensors that an FP16 or INT8 graph holds in FP16 stay from its largest number."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from deploy.graph.fp16 import FP16_MAX


def headroom(precise: ir.Model, peaks: Mapping[str, float]) -> dict[str, float]:
    """FP16 tensor → how many times larger than anything seen it may grow; the smallest first.

    Args:
        precise: what :func:`deploy.graph.fp16.to_fp16` made.
        peaks: max |x| of tensors of the FP32 graph. One that was always zero says nothing and is left out.
    """
    found = {name: FP16_MAX / peak for name in _half_tensors(precise.graph) if (peak := peaks.get(name))}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _half_tensors(graph: ir.Graph) -> list[str]:
    # A tensor that is FP32 for some of its readers is cast for the others, under its name with this ending.
    computed = (value for node in graph for value in node.outputs if value.dtype == ir.DataType.FLOAT16)
    return [str(value.name).removesuffix("/fp16") for value in computed]
