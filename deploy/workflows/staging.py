"""Artefacts that take their places together at the end, or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import onnx_ir as ir

from deploy.artifacts import ArtifactNames, replacing, replacing_all
from deploy.errors import InputError
from deploy.graph import files
from deploy.manifest import Manifest, read_plan_manifest
from deploy.specs import Precision


def outdated_engines(onnx: Path, precision: Precision) -> list[Path]:
    """The engines beside a graph that were built from what it was before."""
    plans = [ArtifactNames.of(onnx).plan(precision, rtx=rtx) for rtx in (False, True)]
    return [plan for plan in plans if plan.is_file() and _built_from(plan) == onnx.name]


def _built_from(plan: Path) -> str | None:
    """The graph that its manifest names, if it can be read."""
    try:
        manifest = read_plan_manifest(plan)
    except InputError:
        return None
    return manifest.engine.onnx_file if manifest is not None and manifest.engine is not None else None


def stage(staged: ExitStack, path: Path, data: bytes) -> Path:
    """Write to a temporary file, which becomes ``path`` when ``staged`` ends well; returns where it is until then."""
    temporary = staged.enter_context(replacing(path))
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())  # some file systems say only here that they are full, and now none has moved yet
    return temporary


def stage_graph(
    staged: ExitStack, path: Path, graph: ir.Model, manifest: Manifest, *, keep: bool
) -> tuple[bytes, Path | None]:
    """Stage a graph to ``path``; or only write it for the time being, where it is not to be kept.

    Returns what its file holds, and where that lies if its weights had to be put beside it.
    """
    if files.fits(graph):
        onnx = files.serialize(graph, manifest)
        if keep:
            stage(staged, path, onnx)
        return onnx, None
    folder = (
        staged.enter_context(replacing_all(files.data_path(path), path))
        if keep
        else Path(staged.enter_context(tempfile.TemporaryDirectory()))
    )
    place = folder / path.name
    return files.write(place, files.with_manifest(graph, manifest)), place
