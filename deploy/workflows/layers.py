"""Layer by layer: an FP16 or INT8 graph beside its FP32 graph on real images, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.engine.plan import graph_of
from deploy.errors import InputError
from deploy.graph.beside import Beside, beside
from deploy.graph.fp16 import FP16_MAX, range_problem
from deploy.graph.irtools import Array
from deploy.graph.shared import Quantizer, SharedTensor
from deploy.manifest import read_plan_manifest
from deploy.parity.layers import (
    ErrorPower,
    LayerReport,
    Range,
    RangeFinding,
    SignalPower,
    TensorLoss,
    clipped_share,
    fewer_bins,
    sqnr_db,
    step_db,
)
from deploy.quantize import calibrate
from deploy.quantize.calibrate import bytes_per_image, observe
from deploy.quantize.equalize import tensor_gains
from deploy.quantize.observers import HistogramObserver
from deploy.specs import Precision
from deploy.workflows.subjects import Subject

# Of the report's histograms: as many as a small plot can show.
BINS = 128

Progress = Callable[[int, int], None]


def check_layers(reference: str, others: Sequence[str], data: Path | None) -> None:
    """Before anything is opened.

    Raises:
        InputError: there is no data, more than one file to explain, or a file without inner tensors.
    """
    if data is None:
        raise InputError("layers are judged on real images only", got="no --data", fix="Give some: --data DIR.")
    if len(others) != 1:
        raise InputError("layers are shown of one graph", got=f"{len(others)} files", expected="REFERENCE OTHER")
    for name in (reference, *others):
        if Path(name).suffix == ".plan":
            manifest = read_plan_manifest(Path(name))
            graph = graph_of(Path(name), manifest.engine if manifest else None)
            raise InputError(
                "an engine has no inner tensors to look at", got=name, fix=f"Give the graph it was built from: {graph}."
            )


def explain(reference: Subject, other: Subject, data: CalibrationData, progress: Progress | None = None) -> LayerReport:
    """:func:`layer_report` of opened files.

    Raises:
        InputError: one is no graph, or the other is not FP16 or INT8; see also :func:`layer_report`.
    """
    for subject in (reference, other):
        if subject.graph is None:
            raise InputError(
                "layers are those of ONNX graphs",
                got=f"the model '{subject.name}'",
                expected="an .onnx file",
                fix="Export it: python export.py --model NAME.",
            )
    assert reference.graph is not None
    assert other.graph is not None
    if other.precision is Precision.FP32:
        raise InputError("an FP32 graph loses nothing", got=other.name, expected="an FP16 or INT8 graph")
    manifest = other.runner.manifest
    facts = manifest.quantization if manifest else None
    text = (facts or {}).get("equalization")
    gains = tensor_gains(reference.graph, text) if text else None
    return layer_report(reference.graph, other.graph, data, progress, gains, facts)


def layer_report(
    reference: ir.Model,
    precise: ir.Model,
    data: CalibrationData,
    progress: Progress | None = None,
    gains: Mapping[str, Array] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> LayerReport:
    """What each layer of ``precise`` loses.

    Args:
        reference: the FP32 graph.
        precise: an FP16 or INT8 graph made from it.
        data: real images; gone through once, or several times where one image's tensors need more memory than
            :data:`deploy.quantize.calibrate.MEMORY`.
        progress: called with (images done, images in all), over all passes.
        gains: see :func:`deploy.graph.beside.beside`.
        facts: of the making of ``precise``, as its manifest has them under ``quantization``.

    Raises:
        InputError: the graphs do not correspond, or the reference gives NaN or infinity.
    """
    pair = beside(reference, precise, gains)
    seen = _Seen(pair)
    images = seen.all(data, progress)
    losses, known = tuple(seen.losses()), facts or {}
    findings = tuple(_findings(losses, known.get("fp32_nodes") or {}))
    return LayerReport(images, losses, tuple(seen.ranges()), findings, known.get("search"))


class _Seen:
    """What was observed of the combined graph."""

    def __init__(self, pair: Beside) -> None:
        self._pair = pair
        self._quantizers = {each.tensor: each for shared in pair.tensors for each in shared.quantizers}
        self._histograms = {name: HistogramObserver() for name in self._quantizers}
        self._power = self._watched()

    def _watched(self) -> dict[str, SignalPower]:
        """Of a tensor the precise graph scales by gains, the power is that of the FP32 graph's, the range is not."""
        pair, power = self._pair, dict[str, SignalPower]()
        computed = [shared.name for shared in pair.tensors]
        for name in dict.fromkeys([*computed, *self._quantizers]):
            power[name] = SignalPower()
            power[pair.exact(name)] = SignalPower(self._histograms.get(name))
            if name in computed:
                power[pair.error(name)], power[pair.own_error(name)] = ErrorPower(), ErrorPower()
        return power

    def all(self, data: CalibrationData, progress: Progress | None) -> int:
        """Show everything to its observer; the number of images seen."""
        groups, images = list(self._groups()), 0
        for index, group in enumerate(groups):
            images = observe(
                self._pair.only(group),
                {name: self._power[name] for name in group},
                data,
                progress=progress and _shifted(progress, index, len(groups)),
            )
        return images

    def _groups(self) -> Iterator[list[str]]:
        """As many tensors at a time as one image fills the memory with; :func:`observe` cuts batches to what fits."""
        values = {str(v.name): v for v in _values(self._pair.model.graph)}
        fed = [name for name in self._power if values[name].is_graph_input()]  # they are in memory anyway
        group, room = list[str](), calibrate.MEMORY
        for name in (name for name in self._power if name not in fed):
            size = bytes_per_image(values[name])
            if group and size > room:
                yield group
                group, room = [], calibrate.MEMORY
            group.append(name)
            room -= size
        yield [*group, *fed]

    def losses(self) -> Iterator[TensorLoss]:
        before, accumulated = _layers_before(self._pair.tensors), self._sqnr(self._pair.error)
        own = self._sqnr(self._pair.own_error)
        for shared in self._pair.tensors:
            name, peak = shared.name, self._power[self._pair.exact(shared.name)].peak
            yield TensorLoss(
                tensor=name,
                layer=shared.node,
                op_type=shared.op_type,
                is_layer=shared.is_layer,
                sqnr_db=accumulated[name],
                own_sqnr_db=own[name],
                step_db=step_db(accumulated[name], (accumulated[source] for source in before[name])),
                finite=math.isfinite(self._power[self._pair.error(name)].total),
                peak=peak,
                headroom=FP16_MAX / peak if peak else math.inf,
                fp16=shared.fp16,
                quantized=tuple(each.tensor for each in shared.quantizers),
            )

    def _sqnr(self, error_of: Callable[[str], str]) -> dict[str, float]:
        names = [shared.name for shared in self._pair.tensors]
        return {name: sqnr_db(self._power[name], self._power[error_of(name)]) for name in names}

    def ranges(self) -> Iterator[Range]:
        for name, quantizer in self._quantizers.items():
            yield _range(quantizer, self._histograms[name])


def _range(quantizer: Quantizer, observer: HistogramObserver) -> Range:
    histogram = observer.histogram
    return Range(
        tensor=quantizer.tensor,
        scale=quantizer.scale,
        clip=quantizer.clip,
        peak=histogram.amax,
        clipped=clipped_share(histogram.counts, histogram.limit, quantizer.clip),
        counts=fewer_bins(histogram.counts, BINS),
        limit=histogram.limit,
    )


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _shifted(progress: Progress, index: int, passes: int) -> Progress:
    """Progress of one pass of several, as part of all."""
    return lambda done, total: progress(index * total + done, passes * total)


def _layers_before(tensors: Sequence[SharedTensor]) -> dict[str, set[str]]:
    """Tensor → the nearest layers before it, through activations, pools and the like."""
    before: dict[str, set[str]] = {}
    layers = {shared.name for shared in tensors if shared.is_layer}
    for shared in tensors:
        found = [{source} if source in layers else before.get(source, set()) for source in shared.sources]
        before[shared.name] = set().union(*found)
    return before


def _findings(losses: Sequence[TensorLoss], kept: Mapping[str, str]) -> Iterator[RangeFinding]:
    """Tensors near FP16's limits; ``kept`` are the nodes that the build left in FP32, with its reasons."""
    for loss in losses:
        why = range_problem(loss.tensor, loss.peak)
        if why is not None:
            yield RangeFinding(loss.tensor, loss.layer, why, _outcome(loss, kept))


def _outcome(loss: TensorLoss, kept: Mapping[str, str]) -> str:
    if not loss.fp16:
        by_audit = " (range audit of the build)" if loss.layer in kept else ""
        return f"stays FP32{by_audit}"
    return "is held in FP16" if loss.finite else "is held in FP16 and overflows"
