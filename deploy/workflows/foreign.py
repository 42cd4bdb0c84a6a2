"""A graph that other tools made → one that the precision passes take: flat, of opset 19, simplified.

What was changed is run beside the original in ONNX Runtime before anything is built from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveInitializersFromInputsPass

from deploy.errors import CheckFailed, InputError
from deploy.graph.files import fits
from deploy.graph.lift import lift, opset_of
from deploy.parity.compare import Accumulator
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.base import Array
from deploy.runtime.graphs import run_graph
from deploy.runtime.rows import infer_rows
from deploy.specs import Precision

Say = Callable[[str], None]
Feeds = Sequence[Mapping[str, Array]]

# ONNX's own operators, under both names, and those that ONNX Runtime adds.
_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")


def flatten(model: ir.Model, where: str) -> ir.Model:
    """A copy without functions, and without initializers among its inputs (as IR 3 demanded them).

    Raises:
        InputError: it computes in integers already, or in operators of nobody's standard.
    """
    copy = model.clone()
    InlinePass()(copy)
    RemoveInitializersFromInputsPass()(copy)
    _check_operators(copy.graph, where)
    return copy


def _check_operators(graph: ir.Graph, where: str) -> None:
    if custom := [f"{node.domain}.{node.op_type}" for node in graph if node.domain not in _KNOWN_DOMAINS]:
        raise InputError(
            f"{where} holds operators that ONNX does not define",
            got=_counted(custom),
            fix="Export it with standard operators, or replace these by what they compute.",
        )
    if integers := [node.op_type for node in graph if _is_quantized(node.op_type)]:
        raise InputError(
            f"{where} is quantized already, in operators that TensorRT does not read",
            got=_counted(integers),
            expected="an FP32 graph, or QuantizeLinear and DequantizeLinear around FP32 operators",
            fix="Give the FP32 graph it was made from.",
        )


def _is_quantized(operator: str) -> bool:
    return operator.startswith(("QLinear", "DynamicQuantize")) or operator.endswith("Integer")


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).items())


def prepare(model: ir.Model, where: str, feeds: Feeds, note: Say, warn: Say) -> ir.Model:
    """The flat ``model`` raised and simplified, each only if it still computes the same on ``feeds``.

    Raises:
        InputError: the opset cannot be raised, or the raised graph computes something else.
    """
    lifted = lift(model)
    if lifted is not model:
        note(f"{where}: raised from opset {opset_of(model)} to {opset_of(lifted)}")
    simple = _simplified(lifted, where, warn)
    candidates = [graph for graph in (simple, lifted) if graph is not None and graph is not model]
    wanted = _results(model, feeds) if candidates else []
    for graph in candidates:
        reason = _difference(wanted, _results(graph, feeds))
        if reason is None:
            return graph
        if graph is lifted:
            fix = f"Export it again with opset {opset_of(lifted)}."
            raise InputError(f"{where} computes something else at opset {opset_of(lifted)}", got=reason, fix=fix)
        warn(f"{where} is used as it is: simplified, it computes something else ({reason})")
    return model


def _simplified(model: ir.Model, where: str, warn: Say) -> ir.Model | None:
    if not fits(model):
        warn(f"{where} is not simplified: it has more weights than onnxsim can take (2 GB)")
        return None
    try:
        # Imported here: a machine that only builds our own graphs needs no onnxsim.
        from deploy.graph.simplify import simplify
    except ImportError:
        warn(f"{where} is not simplified: onnxsim is not installed (pip install onnxsim)")
        return None
    try:
        return simplify(model, strict=False)
    except CheckFailed as error:
        warn(f"{where} is used as it is: {error.headline}")
        return None


def _results(model: ir.Model, feeds: Feeds) -> list[dict[str, Array]]:
    with run_graph(model) as runner:
        return [infer_rows(runner, each) for each in feeds]


def _difference(wanted: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]) -> str | None:
    """The first output that is further off than the order of additions explains, and by how much."""
    for name in wanted[0] if wanted else ():
        accumulator = Accumulator()
        for one, other in zip(wanted, got):
            accumulator.update(one[name], other[name])
        if reasons := DEFAULT_LIMITS[Precision.FP32].distances(accumulator.result()):
            return f"{name}: {'; '.join(reasons)}"
    return None
