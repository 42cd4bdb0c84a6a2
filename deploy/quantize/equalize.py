"""Cross-layer equalization: factors for the channels of a graph that make INT8's noise smallest.

One scale serves a whole activation tensor, so a channel that stays small uses few of its 255 levels. Where a factor can
be moved through the graph (:mod:`deploy.graph.channels`) small channels are made larger and the weights behind them
smaller. Nagel et al. (ICCV 2019, section 4.1) equalize the ranges of weights, which per-channel scales make needless;
here the ranges of activations are meant, as in SmoothQuant (Xiao et al., ICML 2023). That has a strength to be tuned;
here a model of the noise decides, over every tensor that shares a channel.

The model (:mod:`deploy.quantize.noise`): an activation over [-A, A] gets noise of variance (A/127)²/12 in each value,
which reaches the output of each reader through its weights; a weight gets (max |w| of its output channel / 127)²/12.
Both are counted relative to the power of the output channel they arrive in, and summed. In logarithms of the factors
the sum is convex (a geometric program): it has one minimum, found by gradient descent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.channels import FIXED, MIXERS, Channels
from deploy.graph.irtools import Array, constant, typed
from deploy.graph.lift import lift
from deploy.graph.placement import Placement
from deploy.graph.qdq import INT8_MAX
from deploy.graph.rescale import rescale
from deploy.quantize.noise import grouped_weight, multiplies_channels, noise_gain, readers_of, relative_noise
from deploy.quantize.observers import ChannelObserver

# Factors are 2^(n/8), n a signed byte: 9 % apart, finer than matters, and small enough for the manifest.
STEPS = 8
_MOST = 8 * STEPS  # within 1/256 to 256: a channel further below the others is dead
# Within 0.5 % of what eight times as many steps reach, on all networks tried.
_ITERATIONS = 50
_RATE = 0.1
# max is smoothed to a mean of this power, so that every channel near the largest has its say.
_POWER = 8
_ROUNDING = 1 / 12 / INT8_MAX**2


def equalization(model: ir.Model, placement: Placement, seen: Mapping[str, ChannelObserver]) -> Array:
    """Class of channels (:class:`deploy.graph.channels.Channels`) → n of its factor 2^(n/8), int8.

    Args:
        model: the FP32 graph.
        placement: what will be quantized in it.
        seen: the channels of :func:`deploy.quantize.noise.observed_tensors` on real images.
    """
    graph = typed(model).graph
    channels = Channels(graph)
    activations, weights = _noise_sources(graph, channels, placement, seen)
    logarithm = _descend(channels.count, activations, weights)
    steps: Array = np.rint(logarithm / np.log(2) * STEPS)
    return np.clip(steps, -_MOST, _MOST).astype(np.int8)


def factors(steps: Array) -> Array:
    """The factors that :func:`equalization` means."""
    return np.asarray(np.exp2(steps.astype(np.float64) / STEPS))


def scaled(model: ir.Model, steps: Array, seen: Mapping[str, ChannelObserver]) -> dict[str, ChannelObserver]:
    """What was seen of ``model``, as it would have been seen with the factors applied."""
    graph = typed(model).graph
    channels, applied = Channels(graph), factors(steps)
    values = {str(v.name): v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    classes = {name: channels.per_channel(values[name]) for name in seen}
    return {
        name: observer if classes[name] is None else observer.scaled(applied[classes[name]])
        for name, observer in seen.items()
    }


def encode(steps: Array) -> str:
    """``steps`` as text, for a JSON document."""
    return base64.b64encode(steps.astype(np.int8).tobytes()).decode()


def decode(text: str) -> Array:
    """The inverse of :func:`encode`.

    Raises:
        InputError: not such a text.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), np.int8)
    except ValueError as error:
        raise InputError("the factors of an equalization cannot be read", got=str(error)) from error


def fits(model: ir.Model, text: str) -> bool:
    """Whether the encoded factors can be those of ``model``: a graph that was simplified first has other channels."""
    return len(decode(text)) == Channels(typed(lift(model)).graph).count


def equalized(model: ir.Model, text: str) -> ir.Model:
    """``model`` with the encoded factors applied.

    Raises:
        InputError: they are not of this graph.
    """
    lifted = lift(model)
    return rescale(lifted, _factors_of(Channels(typed(lifted).graph), text))


def tensor_gains(model: ir.Model, text: str) -> dict[str, Array]:
    """Tensor → what the encoded factors multiply it by, broadcasting to it; those left as they are do not appear.

    Raises:
        InputError: the factors are not of this graph.
    """
    graph = typed(lift(model)).graph
    channels = Channels(graph)
    applied = _factors_of(channels, text)
    gains = {str(value.name): applied[channels.of(value)] for node in graph for value in node.outputs}
    return {name: gain for name, gain in gains.items() if (gain != 1).any()}


def _factors_of(channels: Channels, text: str) -> Array:
    steps = decode(text)
    if len(steps) != channels.count or steps[FIXED] != 0:
        raise InputError(
            "the INT8 graph was equalized, and not from this FP32 graph",
            got=f"factors of {len(steps)} channels",
            expected=f"{channels.count}",
            fix="Give the FP32 .onnx it was built from.",
        )
    return factors(steps)


@dataclass(frozen=True)
class _Activation:
    """A quantized tensor: class and reach of each channel, and how much of its noise its readers see."""

    classes: Array
    reach: Array
    seen_by: Array

    def noise(self, logarithm: Array) -> tuple[float, Array]:
        """The noise and its gradient by the logarithm of each channel's factor."""
        factor = np.exp(logarithm[self.classes])
        reach = self.reach * factor
        powers = (reach / reach.max()) ** _POWER
        amax = reach.max() * powers.mean() ** (1 / _POWER)
        arriving = self.seen_by / factor**2
        noise = _ROUNDING * amax**2 * arriving.sum()
        return float(noise), 2 * float(noise) * (powers / powers.sum() - arriving / max(arriving.sum(), 1e-300))


@dataclass(frozen=True)
class _Weight:
    """A quantized weight: classes and power of the inputs it reads, [groups, inputs].

    ``magnitude`` [groups, outputs, inputs] is its largest tap each, times the root of what noise in that output counts.
    """

    classes: Array
    magnitude: Array
    power: Array

    def noise(self, logarithm: Array) -> tuple[float, Array]:
        """The noise and its gradient by the logarithm of each input channel's factor."""
        factor = np.exp(logarithm[self.classes])
        scaled = self.magnitude / factor[:, None, :]
        widest = scaled.argmax(axis=2)
        peak = np.take_along_axis(scaled, widest[:, :, None], axis=2)[:, :, 0] ** 2
        arriving = factor**2 * self.power
        total = arriving.sum(axis=1)
        noise = _ROUNDING * peak.sum(axis=1) * total
        gradient = 2 * noise[:, None] * arriving / np.maximum(total, 1e-300)[:, None]
        narrowed = 2 * _ROUNDING * peak * total[:, None]
        for group, (columns, amounts) in enumerate(zip(widest, narrowed)):
            gradient[group] -= np.bincount(columns, amounts, gradient.shape[1])
        return float(noise.sum()), gradient


def _noise_sources(
    graph: ir.Graph, channels: Channels, placement: Placement, seen: Mapping[str, ChannelObserver]
) -> tuple[list[_Activation], list[_Weight]]:
    values = {str(v.name): v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    activations, weights = [], []
    for tensor, readers in readers_of(graph, placement).items():
        observer, classes = seen[tensor], channels.per_channel(values[tensor])
        if classes is None or len(classes) != len(observer.peaks) or not observer.amax:
            continue
        reach = reach_of(observer)
        arriving = np.sum([noise_gain(node, seen, len(classes)) for node in readers], axis=0)
        activations.append(_Activation(classes, reach, arriving))
        weights += [_weight(node, classes, observer.mean_square, seen) for node in readers if _mixes_channels(node)]
    return activations, weights


def reach_of(observer: ChannelObserver) -> Array:
    """How far each channel reaches: [channels]."""
    # A channel that is zero throughout has no reach: a thousandth of the largest keeps its factor finite.
    return np.asarray(np.maximum(observer.reach, 1e-3 * observer.reach.max()))


def _mixes_channels(node: ir.Node) -> bool:
    """Whether an output reads several channels: a depthwise weight's scale follows its one input's factor."""
    weight = constant(node.inputs[1]) if node.op_type in MIXERS and multiplies_channels(node) else None
    return weight is not None and (node.op_type != "Conv" or weight.shape[1] > 1)


def _weight(node: ir.Node, classes: Array, power: Array, seen: Mapping[str, ChannelObserver]) -> _Weight:
    grouped = grouped_weight(node, len(classes))
    relative = relative_noise(node, seen).reshape(len(grouped), -1, 1)
    magnitude = np.abs(grouped).max(axis=3) * np.sqrt(relative * grouped.shape[3])
    shape = (len(grouped), -1)
    return _Weight(classes.reshape(shape), magnitude, power.reshape(shape))


def _descend(classes: int, activations: list[_Activation], weights: list[_Weight]) -> Array:
    """The logarithms of the best factors, by Adam (Kingma and Ba, 2015) on the logarithm of the noise."""
    logarithm, mean, square = (np.zeros(classes) for _ in range(3))
    for step in range(1, _ITERATIONS + 1):
        noise, gradient = 0.0, np.zeros(classes)
        sources: list[_Activation | _Weight] = [*activations, *weights]
        for source in sources:
            part, slope = source.noise(logarithm)
            noise += part
            gradient += np.bincount(source.classes.reshape(-1), slope.reshape(-1), classes)
        gradient[FIXED] = 0
        gradient /= max(noise, 1e-300)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        rate = _RATE * (1 - (step - 1) / _ITERATIONS)
        logarithm -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
    return logarithm
