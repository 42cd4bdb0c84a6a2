"""Real graphs that multiply by a number, as files that change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graphs import constant, saved, tensor
from onnx import helper

from deploy.runtime.onnxrt import OnnxRunner
from deploy.serving.settings import ModelSettings


def write_scale(path: Path, factor: float) -> Path:
    """``y = factor x`` for rows of two, moved into place as a build moves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(".half")
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    saved(str(half), nodes, [tensor("x", ["batch", 2])], [tensor("y", ["batch", 2])], [constant("k", [factor])])
    return half.replace(path)


def open_scale(file: Path, settings: ModelSettings) -> list[OnnxRunner]:
    return [OnnxRunner(file, device="cpu", threads=1) for _ in range(settings.instances)]


def row(tag: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 2), tag, np.float32)}
