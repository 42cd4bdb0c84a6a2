"""FP32 graph → the precise graph of a precision, on evidence from real images where they are needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.errors import InputError
from deploy.graph.files import graph_digest
from deploy.graph.fp16 import audited_tensors, to_fp16, weights_outside_fp16
from deploy.graph.placement import Placement, place
from deploy.graph.qdq import insert_qdq
from deploy.graph.rescale import rescale
from deploy.graph.weights import weight_sqnr
from deploy.quantize import cache
from deploy.quantize.cache import CalibrationCache
from deploy.quantize.calibrate import DEFAULT_METHOD, calibrate, observe, settled_after
from deploy.quantize.equalize import encode, equalization, equalized, factors, scaled
from deploy.quantize.noise import importance, observed_tensors
from deploy.quantize.observers import ChannelObserver
from deploy.quantize.recipe import EQUALIZATION, Recipe
from deploy.quantize.reconstruct import Corrections, corrected_biases, reconstruct
from deploy.workflows.fp16_range import kept_fp32, peaks_on
from deploy.workflows.implicit import implicit_tensors, read_ranges
from deploy.workflows.source import Source

Note = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Quantized:
    """A precise graph and the facts of its making, for the manifest.

    Attributes:
        amax: tensor of the FP32 graph → the range it was given, empty but for INT8.
        peaks: tensor of the FP32 graph → max |x| on real images, empty without images.
        without: makes it again less the INT8 of some nodes (name → why the target refuses it); None but for INT8.
    """

    graph: ir.Model
    facts: dict[str, Any] | None = None
    amax: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)
    without: Callable[[Mapping[str, str]], Quantized] | None = None


@dataclass(frozen=True)
class Calibration:
    """How to quantize: the data (None: only a fitting cache will do), how, and where the ranges are kept.

    ``trt_cache`` is a calibration cache of TensorRT's: read where it exists, else ranges for all it holds are found. It
    is about the FP32 graph as it is: the recipe must not equalize.
    """

    data: CalibrationData | None
    cache: Path
    method: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    note: Note = field(default=lambda text: None)
    progress: Callable[[str], Progress] | None = None
    trt_cache: Path | None = None

    def watched(self, step: str) -> Progress | None:
        """Where a step reports how far it is."""
        return self.progress(step) if self.progress else None


def to_half(source: Source, data: CalibrationData | None, note: Note) -> Quantized:
    """The FP16 graph; with ``data`` the nodes that come near FP16's limits on real images stay FP32."""
    peaks = peaks_on(source.graph, data)
    kept = kept_fp32(source.graph, peaks, note)
    return Quantized(to_fp16(source.graph, kept), {"fp32_nodes": kept}, peaks=peaks)


def prepare_int8(source: Source, calibration: Calibration) -> Int8:
    """What every INT8 graph of ``source`` is made of: ranges from the cache where it fits, else from the data.

    Raises:
        InputError: there is neither data nor a cache that fits (the reason is in the message), or no data for a recipe
            that needs them.
    """
    unfit = weights_outside_fp16(source.graph)  # scales are FP16 numbers: what these weights need is none
    placement = place(source.graph, unfit)
    if not placement.activations:
        raise InputError(
            "nothing in this graph can be quantized", got="; ".join(placement.left_out.values()) or "no layers"
        )
    recipe, data = calibration.recipe, calibration.data
    if recipe.corrects and data is None:
        fix = "Give --calibration-data DIR, or --recipe fast."
        raise InputError(f"recipe {recipe.name} fits layers to images", got="no --calibration-data", fix=fix)
    ranges = _ranges(source, placement, calibration)
    prepared = Int8(_equalized(source.graph, ranges), ranges, unfit, recipe)
    return replace(prepared, corrections=_corrections(prepared, calibration)) if recipe.corrects else prepared


@dataclass(frozen=True)
class Int8:
    """What INT8 graphs with more or fewer layers are made of, without calibrating again.

    Attributes:
        graph: the FP32 graph, equalized where the recipe says so.
        ranges: of every tensor that can be quantized.
        unfit: node that must stay as it is → reason.
        recipe: what was done.
        corrections: of the layers one by one.
        refused: node that the target has no INT8 kernel for → its builder's words.
    """

    graph: ir.Model
    ranges: CalibrationCache
    unfit: Mapping[str, str]
    recipe: Recipe
    corrections: Corrections = field(default_factory=Corrections)
    refused: Mapping[str, str] = field(default_factory=dict)

    def without(self, refused: Mapping[str, str]) -> Int8:
        """The same less ``refused`` nodes."""
        return replace(self, refused={**self.refused, **refused})

    def placement(self, exclude: Mapping[str, str]) -> Placement:
        """What is quantized when nodes in ``exclude`` (name → reason) stay FP16."""
        refused = {node: f"the target refuses it in INT8: {words}" for node, words in self.refused.items()}
        unfit = {**self.unfit, **refused, **exclude}
        return _without_dead(self.graph, place(self.graph, unfit), self.ranges, unfit)

    def quantized(self, exclude: Mapping[str, str]) -> Quantized:
        """The INT8 graph: Q/DQ over an FP16 base. Nodes in ``exclude`` (name → reason) stay FP16."""
        ranges, placement = self.ranges, self.placement(exclude)
        corrected = corrected_biases(self.graph, placement, self.corrections)
        int8 = insert_qdq(corrected, placement, ranges.amax, self.corrections.weights)
        graph = to_fp16(int8, ranges.keep_fp32)
        settled = settled_after({int(images): change for images, change in ranges.convergence.items()})
        facts = {
            "recipe": self.recipe.name,
            "parts": list(self.recipe.parts),
            "method": ranges.method,
            "images": ranges.images,
            "ranges_settled_after": settled,
            "convergence": dict(ranges.convergence),
            "int8_layers": len(placement.weights),
            "int8_mac_share": placement.int8_mac_share,
            "left_out": dict(placement.left_out),
            "fp32_nodes": dict(ranges.keep_fp32),
            "equalization": ranges.equalization,
            "corrected": self._corrected(placement, graph),
            **({"refused": dict(self.refused)} if self.refused else {}),
        }
        again = functools.partial(self._again, exclude)
        return Quantized(graph, facts, ranges.amax, ranges.peak, again)

    def _again(self, exclude: Mapping[str, str], refused: Mapping[str, str]) -> Quantized:
        return self.without(refused).quantized(exclude)

    def _corrected(self, placement: Placement, precise: ir.Model) -> dict[str, float]:
        """Node → SQNR in dB of its fitted weight against the FP32 one: what ``verify`` can expect of this file."""
        fitted = self.corrections.biases.keys() & {edge.node for edge in placement.activations}
        if not fitted:
            return {}
        found = weight_sqnr(self.graph, precise)
        return {node: round(found[node], 2) for node in sorted(fitted & found.keys()) if math.isfinite(found[node])}


def _equalized(graph: ir.Model, ranges: CalibrationCache) -> ir.Model:
    return graph if ranges.equalization is None else equalized(graph, ranges.equalization)


def _corrections(prepared: Int8, calibration: Calibration) -> Corrections:
    assert calibration.data is not None
    calibration.note(f"correcting layers: {', '.join(part for part in prepared.recipe.parts if part != EQUALIZATION)}")
    placement, progress = prepared.placement({}), calibration.watched("correcting layers")
    return reconstruct(prepared.graph, placement, prepared.ranges.amax, calibration.data, prepared.recipe, progress)


def _without_dead(
    graph: ir.Model, placement: Placement, ranges: CalibrationCache, unfit: Mapping[str, str]
) -> Placement:
    """A tensor that was zero on every image has no range: its readers stay FP16, whatever it holds later.

    Without them other tensors may be quantized than those calibrated, which have no range either.
    """
    dead = dict(unfit)
    while found := {edge.node: edge.tensor for edge in placement.activations if not ranges.amax.get(edge.tensor)}:
        dead |= {node: _why_dead(tensor, ranges) for node, tensor in found.items()}
        placement = place(graph, dead)
    return placement


def _why_dead(tensor: str, ranges: CalibrationCache) -> str:
    zero = tensor in ranges.amax
    return f"its input '{tensor}' was {'zero on every calibration image' if zero else 'not calibrated'}"


def _ranges(source: Source, placement: Placement, calibration: Calibration) -> CalibrationCache:
    if calibration.trt_cache is not None and calibration.trt_cache.exists():
        return _given(source, placement, calibration, calibration.trt_cache)
    reason = _why_not_cached(source, placement, calibration)
    if reason is None:
        calibration.note(f"reusing the ranges in {calibration.cache}")
        return cache.load(calibration.cache)
    if calibration.data is None:
        raise InputError(
            "INT8 needs real images to calibrate with",
            got=f"no --calibration-data; {calibration.cache}: {reason}" if calibration.cache.exists() else reason,
            fix="Give some hundred typical images: --calibration-data DIR.",
        )
    if calibration.cache.exists():
        calibration.note(f"not reusing {calibration.cache}: {reason}")
    return _calibrate(source, placement, calibration, calibration.data)


def _why_not_cached(source: Source, placement: Placement, calibration: Calibration) -> str | None:
    if not calibration.cache.is_file():
        return f"neither --calibration-data nor {calibration.cache}"
    try:
        known = cache.load(calibration.cache)
    except InputError as error:
        return error.headline
    data, preprocessing = calibration.data, source.manifest.preprocessing
    return cache.why_not_reusable(
        known,
        graph_sha256=graph_digest(source.graph),
        preprocessing_sha256=preprocessing.digest() if preprocessing else None,
        method=calibration.method or (DEFAULT_METHOD if data else known.method),
        tensors=_wanted(source, placement, calibration),
        equalized=calibration.recipe.equalizes,
        data_sha256=data.digest() if data else None,
    )


def _calibrate(
    source: Source, placement: Placement, calibration: Calibration, data: CalibrationData
) -> CalibrationCache:
    method, preprocessing = calibration.method or DEFAULT_METHOD, source.manifest.preprocessing
    graph, steps = source.graph, None
    calibration.note(f"calibrating on {data.describe()} by {method}")
    seen = {name: ChannelObserver() for name in observed_tensors(graph, placement)}
    if calibration.recipe.equalizes or method == "mse":
        observe(graph, seen, data, progress=calibration.watched("observing channels"))
    if calibration.recipe.equalizes:
        steps = equalization(graph, placement, seen)
        seen = scaled(graph, steps, seen)
        graph = rescale(graph, factors(steps))
    counted = importance(graph, placement, seen) if method == "mse" else None
    audited, tensors = audited_tensors(graph), _wanted(source, placement, calibration)
    progress = calibration.watched("calibrating")
    result = calibrate(graph, tensors, data, method, progress=progress, watch=audited, importance=counted)
    peaks = {name: result.peak[name] for name in audited}
    found = CalibrationCache(
        amax=result.amax,
        method=method,
        images=result.images,
        graph_sha256=graph_digest(source.graph),
        data_sha256=data.digest(),
        preprocessing_sha256=preprocessing.digest() if preprocessing else None,
        keep_fp32=kept_fp32(graph, peaks, calibration.note),
        equalization=None if steps is None else encode(steps),
        convergence={str(images): round(loss, 3) for images, loss in result.convergence.items() if math.isfinite(loss)},
        peak=peaks,
    )
    cache.save(calibration.cache, found)
    return found


def _wanted(source: Source, placement: Placement, calibration: Calibration) -> tuple[str, ...]:
    """The tensors to find ranges of: those to quantize, and for implicit quantization all others too."""
    others = implicit_tensors(source.graph) if calibration.trt_cache else []
    return tuple(dict.fromkeys([*placement.tensors, *others]))


def _given(source: Source, placement: Placement, calibration: Calibration, path: Path) -> CalibrationCache:
    """The ranges in a calibration cache of TensorRT's. It says nothing of FP16: that is judged on the data."""
    amax, made_by = read_ranges(path, placement.tensors)
    calibration.note(f"taking the ranges from {path} ({made_by}): no calibration")
    peaks = peaks_on(source.graph, calibration.data)
    kept = kept_fp32(source.graph, peaks, calibration.note)
    return CalibrationCache(amax, made_by, 0, "", "", None, kept, peak=peaks)
