"""Corrections of an INT8 network, layer by layer in the order of the graph.

Each layer is shown what really reaches it, the output of the layers before it as they were quantized and corrected, and
is fitted to what the FP32 network makes at that place. So no layer makes up for an error that one before it has made up
for already, and one round is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.errors import InputError
from deploy.graph.biases import bias_of, set_bias, takes_bias
from deploy.graph.irtools import Array, typed_copy
from deploy.graph.placement import Placement
from deploy.graph.qdq import QuantizedWeight, insert_qdq, scale_of
from deploy.graph.rules import channel_axis
from deploy.quantize.least_squares import Moments, fit
from deploy.quantize.patches import Layer
from deploy.quantize.recipe import BIAS_CORRECTION, RECONSTRUCTION, ROUNDING, Recipe
from deploy.quantize.rounding import nearest, round_together
from deploy.quantize.walk import Walk, batch_of, images_in

# For the tensors of both networks that wait for a layer to read them.
MEMORY = 2 << 30
# For the patches of one layer that are summed at once, or for those of one image.
PATCH_MEMORY = 256 << 20
# More images than these change nothing any more, and each costs time.
MOST_IMAGES = 256
# A layer of more terms keeps its weights: cubes of this number are inverted a dozen times, and take a minute from here.
MOST_TERMS = 2304
_CHUNK = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Corrections:
    """What to use in place of the nearest INT8 weights and the FP32 biases.

    Attributes:
        weights: weight tensor → its levels and scales.
        biases: node → its bias, float32.
        images: how many images were used.
    """

    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)
    images: int = 0


def reconstruct(
    model: ir.Model,
    placement: Placement,
    amax: Mapping[str, float],
    data: CalibrationData,
    recipe: Recipe,
    progress: Progress | None = None,
) -> Corrections:
    """Correct every quantized Conv and Gemm of the FP32 ``model``.

    Args:
        model: the graph that ``placement`` and ``amax`` were made for.
        data: up to :data:`MOST_IMAGES` of it are used, or as many as :data:`MEMORY` holds, and a fixed batch at least.
        recipe: which of its parts are done.
        progress: called with (layers done, layers in all).

    Raises:
        InputError: there are fewer than 2 images, or than a fixed batch has.
    """
    reference = typed_copy(model)
    quantized = insert_qdq(model, replace(placement, weights={}), amax)
    feeds = _images(reference, data)
    exact, noisy = Walk(reference, feeds), Walk(quantized, feeds)
    there = {node.name: node for node in quantized.graph}
    layers = [layer for node in reference.graph if (layer := _layer(node, placement))]
    weights, biases = {}, {}
    for done, layer in enumerate(layers):
        node = there[layer.node.name]
        x, y = noisy.value(_name(node.inputs[0])), exact.value(_name(layer.node.outputs[0]))
        weight, bias = _corrected(layer, x, y, recipe)
        weights[_name(layer.node.inputs[1])], biases[str(node.name)] = weight, bias
        noisy.replace(_name(node.inputs[1]), weight.dequantized())
        set_bias(quantized.graph, node, bias)
        exact.forget()
        noisy.forget()
        if progress is not None:
            progress(done + 1, len(layers))
    return Corrections(weights, biases, len(next(iter(feeds.values()))))


def corrected_biases(model: ir.Model, placement: Placement, corrections: Corrections) -> ir.Model:
    """A copy of the FP32 ``model`` with the biases of ``corrections`` in the layers that ``placement`` quantizes.

    A layer that returns to FP16 keeps its own: its output was shifted by its own rounding too.
    """
    result = typed_copy(model)
    for node in list(result.graph):
        bias = corrections.biases.get(str(node.name))
        if bias is not None and _name(node.inputs[1]) in placement.weights:
            set_bias(result.graph, node, bias)
    return result


def _images(model: ir.Model, data: CalibrationData) -> dict[str, Array]:
    batch = batch_of(model) or 1
    least = max(2, batch)
    count = max(least, min(MOST_IMAGES, images_in(model, MEMORY // 2)))
    batches = list(data.sample(count).batches(_CHUNK))
    rows = sum(len(next(iter(feeds.values()))) for feeds in batches)
    if rows < least:
        raise InputError(
            "corrections need images to be fitted to",
            got=f"{rows} readable of {data.describe()}",
            expected=f"{least}, better some hundred",
            fix="Give more, or --recipe fast.",
        )
    whole = rows - rows % batch
    return {name: np.concatenate([feeds[name] for feeds in batches])[:whole] for name in batches[0]}


def _layer(node: ir.Node, placement: Placement) -> Layer | None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.name not in placement.weights or len(weight.uses()) != 1 or node.op_type == "MatMul":
        return None
    layer = Layer.of(node)
    return layer if layer is not None and takes_bias(node, layer.outputs) else None


def _corrected(layer: Layer, x: Array, y: Array, recipe: Recipe) -> tuple[QuantizedWeight, Array]:
    original = layer.matrices()
    fitted = layer.terms <= MOST_TERMS and not {RECONSTRUCTION, ROUNDING}.isdisjoint(recipe.parts)
    halves = _moments(layer, x[::2], y[::2], fitted), _moments(layer, x[1::2], y[1::2], fitted)
    both = halves[0] + halves[1]
    wanted = fit(original, halves) if RECONSTRUCTION in recipe.parts and fitted else original
    scale = scale_of(np.abs(wanted).max(axis=2)).astype(np.float64)
    if ROUNDING in recipe.parts and fitted:
        levels = round_together(wanted, scale, both.covariance()[0], both.rounding())
    else:
        levels = nearest(wanted, scale[:, :, None])
    rounded = levels * scale[:, :, None]
    before = bias_of(layer.node, layer.outputs).reshape(original.shape[:2])
    # The mean of what the weights have changed belongs to them; the rest is what the layers before have shifted.
    bias = before + np.einsum("got,gt->go", original - rounded, both.p / both.count)
    if BIAS_CORRECTION in recipe.parts:
        bias = bias + _shift(original, before, halves)
    stored = layer.as_weight(levels.astype(np.int8))
    weight = QuantizedWeight(stored, scale.reshape(-1).astype(np.float32), channel_axis(layer.node))
    return weight, bias.reshape(-1).astype(np.float32)


def _shift(weights: Array, bias: Array, halves: tuple[Moments, Moments]) -> Array:
    """By how much the layer's output has moved, [groups, outputs], as far as both halves of the images say so."""
    first, second = (half.bias(weights) - bias for half in halves)
    mean = (first + second) / 2
    power = float(np.sum(mean**2))
    return np.asarray(mean * (max(0.0, float(np.sum(first * second))) / power if power else 0.0))


def _moments(layer: Layer, x: Array, y: Array, second: bool) -> Moments:
    parts = _chunks(layer, x, y, second)
    found = next(parts)
    for part in parts:
        found = found + part
    return found


def _chunks(layer: Layer, x: Array, y: Array, second: bool) -> Iterator[Moments]:
    values = y[0].size // layer.outputs * layer.groups * layer.terms
    images = min(_CHUNK, max(1, PATCH_MEMORY // (values * 12)))  # in FP32, and as FP64
    for start in range(0, len(x), images):
        rows = slice(start, start + images)
        yield Moments.of(layer.patches(x[rows]), layer.results(y[rows]), second)


def _name(value: ir.Value | None) -> str:
    assert value is not None
    return str(value.name)
