"""PyTorch module → ONNX graph by the torch.export-based exporter, named and free of the exporter's traces."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from deploy.errors import InputError
from deploy.graph.naming import clear_traces, name_by_module
from deploy.specs import BATCH, TensorSpec, follows_batch

OPSET = 19  # the lowest whose Q/DQ take FP16 scales
IR_VERSION = 10  # newer ones fail in JetPack's parsers and in older runtimes


def export_graph(
    model: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str], batch: int | None = None
) -> ir.Model:
    """Export ``model`` in evaluation mode.

    Args:
        model: called with one tensor for each of ``inputs``; returns tensors, alone or in tuples, lists and mappings.
        inputs: names, types and shapes. A first axis named ``batch`` is the batch; all others are numbers.
        outputs: a name for each tensor that comes back, in order.
        batch: a fixed batch size; None leaves the axis dynamic.

    Raises:
        InputError: torch.export cannot trace the model, or it returns another number of tensors.
    """
    examples = tuple(example(spec, batch or _TRACED) for spec in inputs)
    dynamic = None if batch else tuple(_axes(inputs))
    program = _traced(model.eval(), examples, dynamic, [spec.name for spec in inputs])
    exported = program.model
    if batch is None:
        _check_dynamic(exported.graph, type(model).__name__)
    _name_outputs(exported.graph, outputs, type(model).__name__)
    name_by_module(exported)
    clear_traces(exported)
    exported.ir_version = IR_VERSION
    return exported


# Not 1: torch.export would specialise a dynamic axis whose example has one.
_TRACED = 2


def _axes(inputs: Sequence[TensorSpec]) -> Iterator[Any]:
    """The dynamic axes of each input. One names the batch; that the others have it too shows when it is traced."""
    axis: Any = torch.export.Dim(BATCH)
    for spec in inputs:
        batched = follows_batch(spec, BATCH)
        yield {0: axis} if batched else None
        axis = torch.export.Dim.AUTO if batched else axis


def example(spec: TensorSpec, rows: int) -> torch.Tensor:
    """Zeros of the type and shape of ``spec``, its batch being of ``rows``."""
    return torch.zeros([rows if dim == BATCH else int(dim) for dim in spec.shape], dtype=getattr(torch, spec.dtype))


def _traced(
    model: nn.Module, examples: tuple[torch.Tensor, ...], dynamic: Any, names: Sequence[str]
) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings(), _said_on_success():
        # torch.export copies its own deprecated LeafSpec objects.
        warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)`", category=FutureWarning)
        try:
            program = torch.onnx.export(
                model,
                examples,
                input_names=names,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"{type(model).__name__} cannot be exported",
                got=_cause(error),
                fix="torch.export must be able to trace its forward: no branches on tensor values.",
            ) from error
    assert program is not None  # only the file-writing forms of the call return None
    return program


@contextlib.contextmanager
def _said_on_success() -> Iterator[None]:
    """Where torch.export fails it prints the whole graph, several times; the error says what matters."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        yield
    sys.stderr.write(said.getvalue())


def _check_dynamic(graph: ir.Graph, model: str) -> None:
    fixed = [value for value in graph.inputs if value.shape and value.shape[0] == _TRACED]
    if fixed:
        raise InputError(
            f"{model} fixes the batch size when it is traced",
            got=f"{fixed[0].name}{fixed[0].shape}",
            expected=f"a first axis named {BATCH}",
            fix="Let its forward use x.shape[0] and not a number made of it, or export with --batch N.",
        )


def _name_outputs(graph: ir.Graph, names: Sequence[str], model: str) -> None:
    if len(graph.outputs) != len(names):
        raise InputError(
            f"{model} returns another number of tensors when it is traced", got=len(graph.outputs), expected=len(names)
        )
    for value, name in zip(graph.outputs, names):
        others = [v for v in _values(graph) if v.name == name and v is not value]
        if any(other.is_graph_input() for other in others):
            raise InputError(
                f"{model} has an input and an output of one name", got=name, fix="Rename the output's key."
            )
        for other in others:
            other.name = f"{name}/inner"
        value.name = name


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _cause(error: BaseException) -> str:
    """What went wrong underneath: the exporter's own message tells how to report a bug in it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
