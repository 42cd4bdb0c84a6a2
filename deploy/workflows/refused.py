"""INT8 layers that a target has no kernel for: they return to FP16, and the engine is built again.

Strong typing has no fallback: one such layer fails the whole build, and only the builder of the target tells of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

from deploy.artifacts import ArtifactNames
from deploy.engine.refusals import NoImplementationError
from deploy.errors import InputError
from deploy.graph.drop_qdq import drop_qdq, int8_nodes, int8_nodes_named
from deploy.specs import Precision
from deploy.workflows.quantize import Quantized
from deploy.workflows.request import Reporter

Built = TypeVar("Built")

# A builder stops at the first layer that it refuses: each round is a build, and finds one or a few.
MOST_ROUNDS = 20
_SHOWN = 4


def refused_nodes(graph: ir.Model, error: NoImplementationError) -> dict[str, str]:
    """The INT8 nodes of ``graph`` that the builder means → what it calls the layer.

    Empty where it means none, or all: what is no INT8 graph without them is to be built in another precision.
    """
    found = {
        name: refusal.layer
        for refusal in error.refusals
        for name in int8_nodes_named(graph, refusal.first, refusal.last)
    }
    return found if set(int8_nodes(graph)) - set(found) else {}


def without_refused(made: Quantized, error: NoImplementationError, report: Reporter) -> Quantized:
    """``made`` with the layers that the builder refuses in FP16, said to the user.

    Raises:
        NoImplementationError: ``error``, where none of them is in INT8, or nothing else is.
    """
    facts = made.facts or {}
    before: Mapping[str, str] = facts.get("refused", {})
    try:
        new = {name: layer for name, layer in refused_nodes(made.graph, error).items() if name not in before}
        again = made.without(new) if made.without is not None and new else None
    except InputError as reason:  # a graph that others made, which this code cannot change
        raise error from reason
    if again is None:
        raise error
    report.warn(refusal_text(list(new), error))
    return replace(again, facts={**facts, **(again.facts or {})})


def built_without_refused(made: Quantized, build: Callable[[Quantized, bool], Built], report: Reporter) -> Built:
    """What ``build`` returns of ``made``, or of that without the layers that the builder refuses.

    Args:
        made: the graph.
        build: called with a graph, and whether it is no longer the one of the start.
        report: told which layers were left out.

    Raises:
        NoImplementationError: as :func:`without_refused`.
    """
    changed = False
    for _ in range(MOST_ROUNDS):
        try:
            return build(made, changed)
        except NoImplementationError as error:
            made, changed = without_refused(made, error, report), True
    return build(made, changed)


def rebuilt_graph(plan: Path, precision: Precision) -> Path:
    """Where the graph lies that a plan was really built from, if it is no longer the one that was given."""
    names = ArtifactNames.of(plan)
    return replace(names, stem=f"{names.stem}.rebuilt").onnx(precision)


def refusal_text(nodes: Sequence[str], error: NoImplementationError) -> str:
    """What the user is told."""
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    layers = f"{', '.join(nodes[:_SHOWN])}{more}"
    return f"no INT8 kernel for {layers}: out of INT8, and the engine is built again (got {error.got})"


def as_given(graph: ir.Model, facts: dict[str, Any] | None) -> Quantized:
    """A graph that came with its Q/DQ. Nodes that lose theirs compute as the rest of it does, in FP16 or FP32."""

    def without(more: Mapping[str, str]) -> Quantized:
        known = facts or {}
        return as_given(drop_qdq(graph, more), {**known, "refused": {**known.get("refused", {}), **more}})

    return Quantized(graph, facts, without=without)
