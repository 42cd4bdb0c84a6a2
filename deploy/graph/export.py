"""PyTorch module → ONNX graph by the torch.export-based exporter, named and free of the exporter's traces."""

from __future__ import annotations

import warnings

import onnx_ir as ir
import torch
from torch import nn

from deploy.errors import InputError
from deploy.graph.naming import clear_traces, name_by_module

OPSET = 19  # the lowest whose Q/DQ take FP16 scales
IR_VERSION = 10  # newer ones fail in JetPack's parsers and in older runtimes
INPUT, OUTPUT, BATCH = "input", "logits", "batch"


def export_graph(model: nn.Module, input_size: tuple[int, int], batch: int | None = None) -> ir.Model:
    """Export ``model`` in evaluation mode.

    Args:
        model: takes float32 ``[batch, 3, height, width]``, returns one tensor ``[batch, ...]``.
        input_size: height and width in pixels.
        batch: a fixed batch size; None leaves the axis dynamic, named ``batch``.

    Raises:
        InputError: torch.export cannot trace the model.
    """
    # Two rows, because torch.export would specialise a dynamic axis whose example has one.
    example = torch.zeros(batch or 2, 3, *input_size)
    dynamic = None if batch else ({0: torch.export.Dim(BATCH)},)
    with warnings.catch_warnings():
        # torch.export copies its own deprecated LeafSpec objects.
        warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)`", category=FutureWarning)
        try:
            program = torch.onnx.export(
                model.eval(),
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
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
    exported = program.model
    name_by_module(exported)
    clear_traces(exported)
    exported.ir_version = IR_VERSION
    return exported


def _cause(error: BaseException) -> str:
    """What went wrong underneath: the exporter's own message tells how to report a bug in it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
