"""Where a precise graph loses its accuracy: what each layer loses by itself, and how losses add up on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from deploy.parity.compare import decibel
from deploy.runtime.base import Array

SCHEMA = 1
# A block of this many numbers stays in the processor's cache while it is widened to FP64.
_BLOCK = 1 << 16


class Watcher(Protocol):
    """Sees a tensor batch by batch; :class:`deploy.quantize.observers.HistogramObserver` is one."""

    def observe(self, values: Array) -> None: ...


class SignalPower:
    """Sums the squares of a tensor, remembers max |x|, and shows ``also`` what it sees."""

    def __init__(self, also: Watcher | None = None) -> None:
        self.total = 0.0
        self.peak = 0.0
        self._also = also

    @property
    def amax(self) -> float:
        """max |x|; NaN or infinite if such a value was seen."""
        return self.peak

    def observe(self, values: Array) -> None:
        flat = values.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            self.total += float(block @ block)
        self.peak = float(np.maximum(self.peak, np.abs(values).max(initial=0)))
        if self._also is not None:
            self._also.observe(values)


class ErrorPower(SignalPower):
    """The same of an error. An infinite one is a finding: whoever checks that tensors are finite is not told of it."""

    @property
    def amax(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Range:
    """What a quantized tensor holds, and what INT8 makes of it.

    Attributes:
        tensor: its name.
        scale: the step of INT8.
        clip: the largest |x| that is not clipped.
        peak: max |x| seen.
        clipped: share of the values beyond ``clip``, 0 to 1, to a bin of the histogram.
        counts: |x| in equal bins over ``[0, limit)``.
        limit: see ``counts``.
    """

    tensor: str
    scale: float
    clip: float
    peak: float
    clipped: float
    counts: tuple[int, ...]
    limit: float


@dataclass(frozen=True)
class TensorLoss:
    """One tensor of the precise graph against the FP32 graph's.

    Attributes:
        tensor, layer, op_type: its name, and the node that computes it.
        is_layer: whether it has weights, or inputs quantized for it: what the short table shows.
        sqnr_db: signal power over error power; infinite without error, minus infinity after an overflow, NaN where
            there is no signal.
        own_sqnr_db: the same where the layer's inputs are exact: what it loses by itself.
        step_db: how far ``sqnr_db`` lies below the worst of the layers it reads; None where those are exact.
        finite: no NaN or infinity in the precise graph's tensor.
        peak: max |x| of the FP32 graph's tensor, in the precise graph's units.
        fp16: whether the precise graph holds the tensor in FP16.
        quantized: the tensors it reads through Q/DQ.
    """

    tensor: str
    layer: str
    op_type: str
    is_layer: bool
    sqnr_db: float
    own_sqnr_db: float
    step_db: float | None
    finite: bool
    peak: float
    headroom: float
    fp16: bool
    quantized: tuple[str, ...]


@dataclass(frozen=True)
class RangeFinding:
    """A tensor that comes near FP16's limits: ``why``, and ``outcome``, what the precise graph does about it."""

    tensor: str
    layer: str
    why: str
    outcome: str


@dataclass(frozen=True)
class LayerReport:
    """All of it. ``search`` is what the artefact remembers of a search for layers to leave in FP16, or None."""

    images: int
    tensors: tuple[TensorLoss, ...]
    ranges: tuple[Range, ...]
    findings: tuple[RangeFinding, ...]
    search: Mapping[str, Any] | None = None

    @property
    def layers(self) -> list[TensorLoss]:
        """The rows of the short table: layers, and what loses most where that is none."""
        named = (self.largest_own_loss, self.largest_step)
        return [loss for loss in self.tensors if loss.is_layer or loss in named]

    @property
    def largest_own_loss(self) -> TensorLoss | None:
        """The tensor that loses most by itself, the first of equals; None where nothing loses anything."""
        lossy = [loss for loss in self.tensors if loss.own_sqnr_db < math.inf]
        return min(lossy, key=lambda loss: loss.own_sqnr_db, default=None)

    @property
    def largest_step(self) -> TensorLoss | None:
        """The layer behind which accumulated SQNR has fallen most, the first of equals."""
        steps = [loss for loss in self.tensors if loss.is_layer and (loss.step_db or 0) > 0]
        return max(steps, key=lambda loss: loss.step_db or 0, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: infinities and NaN, which JSON lacks, become None; ``finite`` tells an overflow from none."""
        fields = {
            "schema": SCHEMA,
            "images": self.images,
            "largest_own_loss": _place(self.largest_own_loss),
            "largest_step": _place(self.largest_step),
            "tensors": [asdict(loss) for loss in self.tensors],
            "ranges": [asdict(found) for found in self.ranges],
            "findings": [asdict(finding) for finding in self.findings],
            "search": self.search,
        }
        return dict(_without_infinities(fields))


def _place(loss: TensorLoss | None) -> dict[str, str] | None:
    return None if loss is None else {"layer": loss.layer, "tensor": loss.tensor}


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_infinities(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_infinities(inner) for inner in value]
    return value


def sqnr_db(signal: SignalPower, error: SignalPower) -> float:
    """SQNR in dB: NaN where there is no signal, minus infinity where the error is not finite."""
    if not signal.total:
        return math.nan
    return decibel(signal.total, error.total) if math.isfinite(error.total) else -math.inf


def step_db(own: float, read: Iterable[float]) -> float | None:
    """How far SQNR ``own`` lies below the smallest of ``read``; None where that is infinite, or lost already."""
    before = min((each for each in read if not math.isnan(each)), default=math.inf)
    return None if math.isinf(before) or math.isnan(own) else before - own


def clipped_share(counts: Array, limit: float, clip: float) -> float:
    """The share of the values in bins that begin at ``clip`` or beyond; the bins are equal, over ``[0, limit)``."""
    first = math.ceil(clip / (limit / len(counts)))
    return float(counts[first:].sum() / max(1, counts.sum()))


def fewer_bins(counts: Array, bins: int) -> tuple[int, ...]:
    """The histogram in ``bins`` bins, a divisor of those it has."""
    return tuple(int(count) for count in counts.reshape(bins, -1).sum(axis=1))
