"""Trained networks and their photographs as the quantizers take them: an FP32 graph and two folders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _measure import ROOT, images, run


@dataclass(frozen=True)
class Network:
    """What is quantized, with what, and where its files go.

    Attributes:
        graph: FP32, as export.py wrote it.
        size: side of its input in pixels.
        calibration: a folder of images.
        evaluation: a folder of images for each class.
        folder: for everything made of it.
    """

    name: str
    graph: Path
    size: int
    calibration: Path
    evaluation: Path
    folder: Path


# As they were trained.
_BILINEAR = ("--interpolation", "bilinear")


def photo1000(data: Path, work: Path) -> Network:
    return _exported(_apart(_photo1000, data), work / "photo1000")


def trained(model: str, photos: Path | None, minutes: float, work: Path) -> Network:
    return _exported(_apart(_trained, model, work / model, photos, minutes), work / model)


def untrained(work: Path, count: int) -> Network:
    """For what does not depend on weights: memory. ``count`` synthetic photographs, none to evaluate on."""
    folder = work / "untrained"
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    images(photos, count, (256, 320))
    graph = folder / "mobilenet_v3_small.onnx"
    run([sys.executable, ROOT / "export.py", "--model", graph.stem, "--weights", "random", "-o", graph])
    return Network("mobilenet_v3_small, random weights", graph, 224, photos, photos, folder)


def _apart(function: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """In a process of its own: what PyTorch needs here would count as memory of every process started later."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _photo1000(data: Path) -> dict[str, Any]:
    import _trained

    return asdict(_trained.photo1000(data))


def _trained(model: str, folder: Path, photos: Path | None, minutes: float) -> dict[str, Any]:
    import _trained

    return asdict(_trained.trained(model, folder, photos, minutes, _progress))


def _progress(*what: object) -> None:
    print(*what, file=sys.stderr, flush=True)


def _exported(subject: dict[str, Any], folder: Path) -> Network:
    folder.mkdir(parents=True, exist_ok=True)
    graph, size = folder / f"{subject['model']}.onnx", str(subject["image_size"])
    learnt = ["--weights", subject["weights"], "--num-classes", str(subject["num_classes"])]
    command = [sys.executable, ROOT / "export.py", "--model", subject["model"], *learnt]
    run([*command, "--image-size", size, "--resize", size, *_BILINEAR, "-o", graph])
    return Network(subject["name"], graph, subject["image_size"], subject["calibration"], subject["evaluation"], folder)
