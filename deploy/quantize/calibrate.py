"""Calibration: run real images through the FP32 graph and remember the range of each tensor to quantize."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.errors import InputError
from deploy.graph.irtools import Array
from deploy.quantize.observers import HistogramObserver, MaxObserver, Observer
from deploy.quantize.ranges import METHODS, loss_db
from deploy.runtime.graphs import run_graph
from deploy.runtime.rows import infer_rows, rows_of

# On a trained MobileNetV3 it ties with percentile, well ahead of max and entropy, and has no threshold to tune.
DEFAULT_METHOD = "mse"
# All observed activations of one batch are in memory at once: about 20 MB an image for MobileNetV3 at 224 pixels, and
# 308 MB for EfficientNet-B3 at 300. A batch is cut to the images that fit, or to one where not even one does.
BATCH_SIZE = 8
MEMORY = 512 << 20

SETTLED_DB = 0.5
_FIRST_LOOK = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationResult:
    """What calibration found.

    Attributes:
        amax: tensor → the absolute value that INT8's 127 stands for.
        peak: tensor → max |x| seen, for :func:`deploy.graph.fp16.range_audit`.
        method: one of :data:`deploy.quantize.ranges.METHODS`.
        images: how many were really seen.
        convergence: images seen on the way (16, 32, …) → dB that the ranges found by then would lose on
            all images against the final ones, mean of all tensors.
    """

    amax: Mapping[str, float]
    peak: Mapping[str, float]
    method: str
    images: int
    convergence: Mapping[int, float] = field(default_factory=dict)


def settled_after(convergence: Mapping[int, float]) -> int | None:
    """The number of images from which on ranges were within :data:`SETTLED_DB` of the final ones.

    None where they still moved at the last look: more images would change them.
    """
    moving = [images for images, loss in convergence.items() if loss > SETTLED_DB]
    later = [images for images in convergence if images > max(moving, default=0)]
    return min(later, default=None)


def calibrate(
    model: ir.Model,
    tensors: Sequence[str],
    data: CalibrationData,
    method: str = DEFAULT_METHOD,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    watch: Sequence[str] = (),
    importance: Mapping[str, Array] | None = None,
) -> CalibrationResult:
    """Observe ``tensors`` of the FP32 ``model`` over ``data``. Memory does not grow with the number of images.

    Args:
        model: the FP32 graph.
        tensors: names of inputs and computed tensors, such as :attr:`deploy.graph.placement.Placement.tensors`.
        data: the images.
        method: how a range is made of what was seen, one of :data:`deploy.quantize.ranges.METHODS`.
        batch_size: most images per run; fewer where their activations would need more than :data:`MEMORY`.
        progress: called with (images done, images in all) after each batch.
        watch: further tensors, of which only the peak is wanted, seen in the same pass.
        importance: tensor → what an error in each of its channels counts, for ``mse``
            (:func:`deploy.quantize.noise.importance`); equally much where it is missing.

    Raises:
        InputError: unknown method or tensor, no images, NaN or infinity in a tensor.
    """
    if method not in METHODS:
        raise InputError("unknown calibration method", got=method, expected=", ".join(METHODS))
    # max needs no histogram, and is several times faster without.
    observers: dict[str, Observer] = {name: MaxObserver() for name in watch}
    counted = importance if importance and method == "mse" else {}
    observers |= {name: MaxObserver() if method == "max" else HistogramObserver(counted.get(name)) for name in tensors}
    looks: dict[int, dict[str, float]] = {}

    def seen(done: int, total: int) -> None:
        if done >= _FIRST_LOOK * 2 ** len(looks) and done < total:
            looks[done] = {name: _range(observers[name], method) for name in tensors}
        if progress is not None:
            progress(done, total)

    images = observe(model, observers, data, batch_size, seen)
    if images == 0:
        raise InputError("there are no images to calibrate with", got=data.describe(), expected="at least 1")
    amax = {name: _range(observers[name], method) for name in tensors}
    peak = {name: observer.amax for name, observer in observers.items()}
    convergence = {done: _loss_db(observers, look, amax) for done, look in looks.items()}
    return CalibrationResult(amax, peak, method, images, convergence)


def observe(
    model: ir.Model,
    observers: Mapping[str, Observer],
    data: CalibrationData,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> int:
    """Show ``observers`` their tensors, batch by batch. Returns the number of images seen.

    Raises:
        InputError: an unknown tensor; NaN or infinity in one.
    """
    done = 0
    observed = _with_outputs(model, observers)
    with run_graph(observed) as runner:
        for batch, feeds in enumerate(data.batches(min(batch_size, _images_in_memory(observed)))):
            _show(observers, {**feeds, **infer_rows(runner, feeds)}, batch)
            done += rows_of(runner.inputs, feeds)
            if progress is not None:
                progress(done, len(data))
    return done


def _images_in_memory(model: ir.Model) -> int:
    """How many images' outputs fit into :data:`MEMORY`, as far as shapes are known."""
    return max(1, MEMORY // max(1, sum(map(bytes_per_image, model.graph.outputs))))


def bytes_per_image(value: ir.Value) -> int:
    """What one image needs of an FP32 tensor, as far as its shape is known."""
    return 4 * math.prod(dim for dim in list(value.shape or ())[1:] if isinstance(dim, int))


def _show(observers: Mapping[str, Observer], values: Mapping[str, Array], batch: int) -> None:
    for name, observer in observers.items():
        observer.observe(values[name])
        if not math.isfinite(observer.amax):
            raise InputError(
                f"tensor '{name}' holds NaN or infinity",
                got=f"max |x| is {observer.amax} in batch {batch}",
                expected="finite numbers",
                fix="Check the checkpoint and the images of that batch.",
            )


def _loss_db(observers: Mapping[str, Observer], earlier: Mapping[str, float], final: Mapping[str, float]) -> float:
    """What earlier ranges lose against the final ones, mean of all tensors."""
    losses = [_moved_db(observers[name], earlier[name], amax) for name, amax in final.items() if amax]
    return float(np.mean(losses)) if losses else 0.0


def _moved_db(observer: Observer, earlier: float, final: float) -> float:
    if isinstance(observer, HistogramObserver) and earlier:
        return abs(loss_db(observer.histogram, earlier, than=final))
    return 20 * math.log10(final / earlier) if earlier else math.inf


def _range(observer: Observer, method: str) -> float:
    # A tensor that was zero throughout has no shape to judge.
    if observer.amax == 0 or not isinstance(observer, HistogramObserver):
        return observer.amax
    return METHODS[method](observer.histogram)


def _with_outputs(model: ir.Model, tensors: Iterable[str]) -> ir.Model:
    """A copy of the model with ``tensors`` as outputs too."""
    copy = model.clone()
    graph = copy.graph
    computed = {str(value.name): value for node in graph for value in node.outputs}
    there = {value.name for value in (*graph.inputs, *graph.outputs)}
    for name in tensors:
        if name not in there and name not in computed:
            raise InputError("the graph has no such tensor", got=name, fix="Calibrate the graph it was placed on.")
        if name not in there:
            graph.outputs.append(computed[name])
    return copy
