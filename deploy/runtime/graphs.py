"""Graphs in memory through ONNX Runtime, whatever their size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from deploy.artifacts import write_error
from deploy.graph import files
from deploy.runtime.onnxrt import OnnxRunner


def run_graph(model: ir.Model, *, device: str = "cpu", threads: int | None = None) -> OnnxRunner:
    """Open ``model``; one that does not fit a protobuf message goes through a temporary folder.

    Raises:
        InputError: ONNX Runtime cannot load it.
        MachineError: there is no space for the temporary file, or no CUDA where it was asked for.
    """
    if files.fits(model):
        return OnnxRunner(files.to_bytes(model), device=device, threads=threads)
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            files.write(path, model)
        except OSError as error:
            raise write_error(path, error) from error
        # What the session keeps of the files it has mapped; they may go.
        return OnnxRunner(path, device=device, threads=threads)
