"""An FP32 graph, the twin of a precise graph and each of the twin's layers alone, beside each other in one graph.

In the twin a layer reads what the layers before it made, with all their errors. Alone it reads the FP32 graph's
tensors: its weights, the Q/DQ or rounding of its inputs and that of its output are all that is wrong in what it makes.
Errors are subtracted in the graph: one run tells all of them, and tensors are observed, not pairs of tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from deploy.errors import InputError
from deploy.graph.irtools import Array, add_initializer, cast, new_value
from deploy.graph.shared import SharedTensor, matched_inputs, shared_tensors
from deploy.graph.twin import precision_of, twin
from deploy.specs import Precision

# Tensors of the combined graph are named <part><name>; no name in a network starts like this.
_TWIN, _ALONE, _EXACT, _ERROR, _OWN_ERROR = "twin::", "alone::", "exact::", "error::", "own_error::"


@dataclass(frozen=True)
class Beside:
    """The combined graph. ``gained`` are the tensors that the precise graph holds multiplied by per-channel factors."""

    model: ir.Model
    tensors: tuple[SharedTensor, ...]
    gained: Collection[str]

    def exact(self, name: str) -> str:
        """The FP32 graph's tensor, in the precise graph's units."""
        return f"{_EXACT}{name}" if name in self.gained else name

    @staticmethod
    def error(name: str) -> str:
        """The twin's tensor less the FP32 graph's, in the FP32 graph's units."""
        return f"{_ERROR}{name}"

    @staticmethod
    def own_error(name: str) -> str:
        """The same for a layer that reads the FP32 graph's tensors."""
        return f"{_OWN_ERROR}{name}"

    def only(self, names: Iterable[str]) -> ir.Model:
        """A copy that computes these of its tensors and nothing else."""
        copy = self.model.clone()
        values = {str(v.name): v for v in (*copy.graph.inputs, *(v for node in copy.graph for v in node.outputs))}
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(values[name] for name in names if not values[name].is_graph_input())
        RemoveUnusedNodesPass()(copy)
        return copy


def beside(reference: ir.Model, precise: ir.Model, gains: Mapping[str, Array] | None = None) -> Beside:
    """Combine the FP32 ``reference`` with the FP16 or INT8 graph that was made from it.

    Args:
        reference: FP32, of any opset.
        precise: has the reference's inputs and, but for what it adds, its tensors' names.
        gains: tensor → factors, broadcasting to it, by which the precise graph holds it larger than the reference does
            (equalization between layers). Errors are compared after dividing by them.

    Raises:
        InputError: the graphs do not correspond, or the reference is not FP32.
    """
    _check_reference(reference)
    whole, judged = twin(reference), twin(precise)
    _check_inputs(whole, judged)
    _check_opsets(whole, judged)
    if any(value.shape is None for node in whole.graph for value in node.outputs):
        ShapeInferencePass()(whole)
    tensors = shared_tensors(whole.graph, judged.graph)
    _Combination(whole.graph, judged.graph, tensors, gains or {}).write()
    whole.opset_imports.update(judged.opset_imports)
    return Beside(whole, tensors, frozenset(gains or ()))


class _Combination:
    """Writes the twin, its layers alone and the errors into the reference's graph."""

    def __init__(
        self, graph: ir.Graph, twin: ir.Graph, tensors: tuple[SharedTensor, ...], gains: Mapping[str, Array]
    ) -> None:
        self._graph, self._twin, self._tensors, self._gains = graph, twin, tensors, gains
        self._values = {str(v.name): v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}

    def write(self) -> None:
        exact = {shared.name: self._exact(shared.name) for shared in self._tensors}
        given = {**matched_inputs(self._graph, self._twin), **self._constants()}
        in_twin = self._copy(_TWIN, given)
        shared_values = {v: exact[str(v.name)] for node in self._twin for v in node.outputs if v.name in exact}
        alone = self._copy(_ALONE, {**given, **shared_values})
        for shared in self._tensors:
            for part, made in ((_ERROR, in_twin), (_OWN_ERROR, alone)):
                self._error(f"{part}{shared.name}", made[shared.name], shared)

    def _constants(self) -> dict[ir.Value, ir.Value]:
        constants = [value for value in self._twin.initializers.values() if value.const_value is not None]
        return {
            value: add_initializer(self._graph, f"{_TWIN}{value.name}", value.const_value.numpy())
            for value in constants
            if value.const_value is not None and not value.is_graph_input()
        }

    def _copy(self, part: str, given: Mapping[ir.Value, ir.Value]) -> dict[str, ir.Value]:
        """Append the twin's nodes; they read ``given`` where it has a tensor. Name → what was computed for it."""
        made: dict[str, ir.Value] = {}
        seen = dict(given)
        for node in self._twin:
            outputs = [_renamed(part, value) for value in node.outputs]
            inputs = [None if value is None else seen[value] for value in node.inputs]
            attributes = list(node.attributes.values())
            self._graph.append(
                ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=f"{part}{node.name}")
            )
            made.update((str(before.name), after) for before, after in zip(node.outputs, outputs))
            for before, after in zip(node.outputs, outputs):
                seen.setdefault(before, after)
        return made

    def _exact(self, name: str) -> ir.Value:
        value = self._values[name]
        if name not in self._gains:
            return value
        return self._apply("Mul", f"{_EXACT}{name}", value, self._factors(name))

    def _error(self, name: str, computed: ir.Value, shared: SharedTensor) -> None:
        wanted = self._values[shared.name]
        if shared.fp16:  # what its readers get, and where an overflow shows
            computed = self._through_fp16(f"{name}/held", computed)
        if shared.name in self._gains:
            computed = self._apply("Div", f"{name}/undone", computed, self._factors(shared.name))
        self._apply("Sub", name, computed, wanted)

    def _factors(self, name: str) -> ir.Value:
        """The gains of a tensor."""
        stored = f"{_EXACT}{name}/gains"
        if stored in self._graph.initializers:
            return self._graph.initializers[stored]
        return add_initializer(self._graph, stored, self._gains[name].astype(np.float32))

    def _through_fp16(self, name: str, value: ir.Value) -> ir.Value:
        down = cast(value, ir.DataType.FLOAT16, f"{name}/fp16")
        up = cast(down.outputs[0], ir.DataType.FLOAT, name)
        self._graph.extend([down, up])
        return up.outputs[0]

    def _apply(self, op_type: str, name: str, one: ir.Value, other: ir.Value) -> ir.Value:
        output = new_value(name, ir.DataType.FLOAT, one)
        self._graph.append(ir.Node("", op_type, [one, other], outputs=[output], name=name))
        return output


def _renamed(part: str, value: ir.Value) -> ir.Value:
    shape = None if value.shape is None else value.shape.copy()
    return ir.Value(name=f"{part}{value.name}" if value.name else "", type=value.type, shape=shape)


def _check_reference(reference: ir.Model) -> None:
    if (precision := precision_of(reference)) is not Precision.FP32:
        raise InputError(
            "layers are compared with the FP32 graph",
            got=f"a reference in {str(precision).upper()}",
            fix="Give the .onnx that export wrote as the reference.",
        )


def _check_inputs(reference: ir.Model, other: ir.Model) -> None:
    pairs = matched_inputs(reference.graph, other.graph)
    same = len(pairs) == len(reference.graph.inputs) == len(other.graph.inputs)
    if not same or any(theirs.dtype != ours.dtype for theirs, ours in pairs.items()):
        got, expected = (", ".join(map(str, model.graph.inputs)) for model in (other, reference))
        raise InputError("the graphs take different inputs", got=got, expected=expected)


def _check_opsets(reference: ir.Model, other: ir.Model) -> None:
    ours, theirs = (dict(model.opset_imports) for model in (reference, other))
    if any(theirs[domain] != version for domain, version in ours.items() if domain in theirs):
        raise InputError(
            "the graphs are of different opsets, in which an operator may mean different things",
            got=theirs,
            expected=ours,
            fix="Give the .onnx file that the FP16 or INT8 graph was made from.",
        )
