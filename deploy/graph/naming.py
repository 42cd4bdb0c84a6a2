"""Names a reader recognises: nodes and tensors carry the module path they came from.

The exporter calls them ``node_Conv_673`` and ``getitem_14``. Calibration files, parser errors and the inspector all
speak of tensors, so ``features.4.block.1.0/Conv`` is worth a pass.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_module(model: ir.Model) -> None:
    """Rename nodes to ``<module path>/<op type>`` and inner tensors to their node's name, in place."""
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    taken: Counter[str] = Counter()
    for node in graph:
        node.name = _unique(f"{_module_path(node)}/{node.op_type}".lstrip("/"), taken)
        for index, output in enumerate(node.outputs):
            if output.name not in kept:
                output.name = node.name if index == 0 else f"{node.name}:{index}"
        _name_constants(node)


def _module_path(node: ir.Node) -> str:
    """``features.0.0`` for a convolution (its weight tells, also after batch norm was folded in), else its scope."""
    for value in node.inputs[1:]:
        if value is not None and value.const_value is not None and (value.name or "").endswith(".weight"):
            return str(value.name).removesuffix(".weight")
    # ["", "features", "features.0", "features.0.2", "hardswish"]: modules outside in, then the call itself.
    scopes = _scopes(node) or _shared_scopes(node)
    return scopes[-2] if len(scopes) > 1 else ""


def _scopes(node: ir.Node) -> list[str]:
    return list(ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")))


def _shared_scopes(node: ir.Node) -> list[str]:
    """The modules that hold all readers of ``node``: torch.export gives its Split nodes no scope of their own."""
    levels = zip(*(_scopes(reader)[:-1] for reader in node.successors()), strict=False)
    return [*(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)), node.op_type]


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def _name_constants(node: ir.Node) -> None:
    """Constants that the exporter made (``val_22``) get the name of the first node that uses them."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.is_initializer() and (value.name or "").startswith("val_"):
            value.name = f"{node.name}:in{index}"  # ":1" is the node's second output


def clear_traces(model: ir.Model) -> None:
    """Drop stack traces, source paths and doc strings that the exporter stored in the model, in place."""
    model.metadata_props.clear()
    model.doc_string = None
    for graph in (model.graph, *model.graph.subgraphs()):
        for holder in _holders(graph):
            holder.metadata_props.clear()
            holder.doc_string = None


def _holders(graph: ir.Graph) -> Iterator[ir.Graph | ir.Node | ir.Value]:
    yield graph
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield node
        yield from node.outputs
