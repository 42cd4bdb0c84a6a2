"""INT8 graphs with some layers in FP16, each made and judged once."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from deploy.graph.twin import twin
from deploy.parity.paired import PairedDifference, paired_difference
from deploy.quantize.units import Unit
from deploy.runtime.base import Array
from deploy.runtime.graphs import run_graph
from deploy.runtime.rows import infer_rows
from deploy.workflows.budget import Images
from deploy.workflows.quantize import Int8, Quantized

Kept = frozenset[Unit]


@dataclass(frozen=True)
class Trial:
    """What came of keeping some units in FP16.

    Attributes:
        fp16_layers: what INT8 could take and does not, in graph order.
        int8_mac_share: 0 to 1; None where shapes are unknown.
        score: top-1 accuracy in %, or top-1 agreement with FP32.
        difference: from the FP32 graph.
    """

    fp16_layers: tuple[str, ...]
    int8_mac_share: float | None
    score: float
    difference: PairedDifference

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        low, high = self.difference.interval()
        return {
            "int8_mac_share": self.int8_mac_share,
            "score": self.score,
            "drop": self.difference.drop,
            "low": low,
            "high": high,
            "fp16_layers": list(self.fp16_layers),
        }


class Exam:
    """Which of some images a graph gets right, beside the FP32 graph, which runs once.

    Where no labels are known, what FP32 answers is right.
    """

    def __init__(self, fp32: ir.Model, images: Images, scores: str) -> None:
        self._images, self._scores = images, scores
        answers = _top1(run(fp32, images, scores))
        labels = [beside for _, beside in images if beside is not None]
        self._labelled = bool(labels)
        self._truth = np.concatenate(labels or [answers])
        self._right = answers == self._truth

    @property
    def images(self) -> int:
        return len(self._truth)

    @property
    def score(self) -> float:
        """Of the FP32 graph, in %."""
        return 100 * float(self._right.mean())

    def take(self, precise: ir.Model) -> tuple[float, PairedDifference]:
        """The score in %, and the difference from the FP32 graph."""
        right = _top1(run(twin(precise), self._images, self._scores)) == self._truth
        return 100 * float(right.mean()), paired_difference(self._right, right, gains=self._labelled)


class Trials:
    """Trials on one set of images, by the units in FP16.

    Attributes:
        outside: layers that INT8 does not take in any.
        found: all of them so far.
        making, running: seconds that the last one took.
    """

    def __init__(self, int8: Int8, exam: Exam, reason: str) -> None:
        self._int8, self.exam, self._reason = int8, exam, reason
        self.outside = frozenset(_left_out(int8.quantized({})))
        self.found: dict[Kept, Trial] = {}
        self.making = self.running = 0.0

    def make(self, layers: Collection[str]) -> Quantized:
        """The INT8 graph with ``layers`` in FP16."""
        return self._int8.quantized(dict.fromkeys(layers, self._reason))

    def __call__(self, kept: Kept) -> Trial:
        if kept not in self.found:
            start = time.perf_counter()
            made = self.make(layers_of(kept))
            middle = time.perf_counter()
            score, difference = self.exam.take(made.graph)
            self.making, self.running = middle - start, time.perf_counter() - middle
            left_out = tuple(name for name in _left_out(made) if name not in self.outside)
            share = (made.facts or {})["int8_mac_share"]
            self.found[kept] = Trial(left_out, share, score, difference)
        return self.found[kept]

    def front(self, shown: Collection[Kept]) -> dict[Kept, Trial]:
        """What loses fewer points than all with as much in INT8, and what must be ``shown``; most in INT8 first."""
        best, front = math.inf, {}
        for kept, trial in sorted(self.found.items(), key=lambda item: (_macs(item[0]), item[1].difference.drop)):
            if trial.difference.drop < best or kept in shown:
                best = min(best, trial.difference.drop)
                front[kept] = trial
        return front


def layers_of(kept: Kept) -> list[str]:
    """The layers of some units."""
    return [name for unit in kept for name in unit.layers]


def run(graph: ir.Model, images: Images, scores: str) -> Array:
    """The scores [images, classes] that a graph gives."""
    with run_graph(graph) as runner:
        return np.concatenate([infer_rows(runner, feeds)[scores] for feeds, _ in images])


def _left_out(made: Quantized) -> Mapping[str, str]:
    """The weighted nodes in FP16, in graph order → reason."""
    left_out: Mapping[str, str] = (made.facts or {})["left_out"]
    return left_out


def _macs(kept: Kept) -> int:
    return sum(unit.macs for unit in kept)


def _top1(scores: Array) -> Array:
    """The class of each row; -1 where a score is not finite, which is never right."""
    return np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)
