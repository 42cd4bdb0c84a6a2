"""INT8 under an accuracy budget: as few layers back in FP16 as it takes, and what else could be had."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.data.calibration import CalibrationData
from deploy.data.replay import Replay
from deploy.errors import CheckFailed
from deploy.graph.irtools import typed
from deploy.graph.rules import WEIGHTED
from deploy.graph.twin import twin
from deploy.parity.paired import images_needed
from deploy.quantize.latency import Latency
from deploy.quantize.search import fewest
from deploy.quantize.sensitivity import Sensitivity, by_error, by_error_per_mac, measure
from deploy.quantize.units import Unit, units_of
from deploy.workflows.budget import BATCH, AccuracyBudget, Images
from deploy.workflows.quantize import Int8, Quantized
from deploy.workflows.request import Reporter
from deploy.workflows.source import Source
from deploy.workflows.trials import Exam, Kept, Trial, Trials, layers_of, run

# The error of the logits is averaged over classes too: more images change the order of the layers little.
SENSITIVITY_IMAGES = 64
_RANKS = (by_error_per_mac, by_error)
_NONE: Kept = frozenset()
_NEVER = "no number could, so near the limit: a smaller --max-drop would keep clear of it"


def search_int8(
    source: Source, int8: Int8, data: CalibrationData, budget: AccuracyBudget, latency: Latency, report: Reporter
) -> Quantized:
    """The INT8 graph that keeps ``budget`` with few layers in FP16; its facts hold the whole search.

    Args:
        source: the FP32 graph.
        int8: what INT8 graphs are made of.
        data: the images that sensitivities are measured on.
        budget: what may be lost, and the images it is counted on.
        latency: tells how long a graph takes; asked for the rows of the table alone, since a measurement costs a build.
        report: where the search says what it is doing.

    Raises:
        CheckFailed: only the FP16 graph keeps the budget, or not even that.
    """
    return _Search(source, int8, data, budget, latency, report).run()


@dataclass(frozen=True)
class _Search:
    source: Source
    int8: Int8
    data: CalibrationData
    budget: AccuracyBudget
    latency: Latency
    report: Reporter

    def run(self) -> Quantized:
        self.report.note(f"counting what INT8 loses on {self.budget.images}")
        choosing = self._trials(held_out=False)
        judging = self._trials(held_out=True) if self.budget.held_out else choosing
        units = self._units(choosing)
        everything = frozenset(units)
        chosen, sensitivities = _NONE, list[Sensitivity]()
        if not (self._within(choosing, _NONE) and self._within(judging, _NONE)):
            if not self._within(choosing, everything):
                raise self._missed(choosing, everything)
            sensitivities = self._sensitivities(units, choosing)
            chosen = self._choose(sensitivities, choosing, judging)
        if chosen == everything:
            raise self._missed(judging, everything)
        for kept in (everything, *_doubling(by_error_per_mac(sensitivities)), *choosing.front({chosen})):
            judging(kept)
        self._say(judging(chosen))
        made = judging.make(layers_of(chosen))
        facts = {**self._facts(judging, chosen, everything), "sensitivity": [_row(each) for each in sensitivities]}
        return replace(made, facts={**(made.facts or {}), "search": facts})

    def _trials(self, *, held_out: bool) -> Trials:
        images = self.budget.judging if held_out else self.budget.choosing
        exam = Exam(self.source.graph, images, self.budget.scores)
        return Trials(self.int8, exam, f"for the accuracy budget of {self.budget.points:g} points")

    def _units(self, trials: Trials) -> list[Unit]:
        graph = typed(self.source.graph).graph
        nodes = [node for node in graph if node.op_type in WEIGHTED and node.name not in trials.outside]
        return units_of(graph, [str(node.name) for node in nodes])

    def _within(self, trials: Trials, kept: Kept) -> bool:
        return trials(kept).difference.drop <= self.budget.points

    def _sensitivities(self, units: Sequence[Unit], trials: Trials) -> list[Sensitivity]:
        data, scores = self.data.sample(SENSITIVITY_IMAGES), self.budget.scores
        images: Images = Replay(lambda: ((feeds, None) for feeds in data.batches(BATCH)))
        self._estimate(len(units), len(data), trials)
        return measure(
            units,
            lambda layers: trials.make(layers).graph,
            lambda graph: run(twin(graph), images, scores),
            run(self.source.graph, images, scores),
            self.report.counter("sensitivity of layers"),
        )

    def _estimate(self, units: int, images: int, trials: Trials) -> None:
        alone = trials.making + trials.running * images / trials.exam.images
        one = trials.making + trials.running
        seconds = units * alone + _expected(units) * one
        self.report.note(
            f"searching: {units} layers one by one on {images} images, then up to some {_expected(units)} graphs on "
            f"{trials.exam.images} images: some {seconds:.0f} s"
        )

    def _choose(self, sensitivities: Sequence[Sensitivity], choosing: Trials, judging: Trials) -> Kept:
        """The fewest on the images to choose on; where those to judge on ask for more, as many more."""
        progress, orders = self.report.counter("graphs tried"), [rank(sensitivities) for rank in _RANKS]

        def within(kept: Kept) -> bool:
            kept_it, done = self._within(choosing, kept), len(choosing.found)
            progress(done, max(done + 1, _expected(len(sensitivities))))
            return kept_it

        kept = fewest(orders, within)
        progress(len(choosing.found), len(choosing.found))
        safer = (more for more in _safer(kept, orders[0]) if self._within(judging, more))
        return next(safer, frozenset(orders[0]))

    def _missed(self, trials: Trials, everything: Kept) -> CheckFailed:
        fp16 = trials(everything).difference.drop
        mixed = [trial for kept, trial in trials.found.items() if kept != everything]
        best = min(mixed, key=lambda trial: (trial.difference.drop, len(trial.fp16_layers)))
        layers = f"{len(best.fp16_layers)} of {len(layers_of(everything))} layers"
        larger = "Even FP16 loses more: give a larger --max-drop, or more images."
        return CheckFailed(
            "INT8 misses the accuracy budget; no graph or engine was written",
            got=f"{best.difference.drop:.2f} points lost at best, with {layers} in FP16; {fp16:.2f} in FP16 alone",
            expected=f"{self.budget.points:g} or less",
            fix="Build with --precision fp16." if fp16 <= self.budget.points else larger,
            details=[f"best found, in FP16: {name}" for name in best.fp16_layers],
        )

    def _say(self, chosen: Trial) -> None:
        budget, difference = self.budget, chosen.difference
        if budget.metric == "agreement":
            self.report.note(
                "without --eval-data an image counts as lost where INT8 answers otherwise than FP32: an upper bound"
            )
        if not budget.held_out:
            self.report.note(f"chosen on the {difference.images} images that it is judged on: others may lose more")
        low, high = difference.interval()
        if high > budget.points:
            needed = images_needed(budget.points, difference.discordance, difference.drop)
            takes = f"about {_rounded(needed)} could" if needed else _NEVER
            self.report.warn(
                f"{difference.images} images cannot tell whether the drop is within {budget.points:g} points: "
                f"{difference.drop:.2f}, 95 % interval {low:.2f} to {high:.2f}; {takes}"
            )

    def _facts(self, trials: Trials, chosen: Kept, everything: Kept) -> dict[str, Any]:
        front = trials.front({chosen, everything})
        latencies = self._latencies(front, trials, everything)
        return {
            "metric": self.budget.metric,
            "budget": self.budget.points,
            "images": trials.exam.images,
            "judged_on": "images kept back from the choice" if self.budget.held_out else "the images it was chosen on",
            "fp32_score": trials.exam.score,
            "pareto": [
                {
                    **trial.to_dict(),
                    "latency": latencies[kept],
                    "latency_how": self.latency.how,
                    "chosen": kept == chosen,
                }
                for kept, trial in front.items()
            ],
        }

    def _latencies(self, front: Collection[Kept], trials: Trials, fp16: Kept) -> dict[Kept, float | None]:
        """Relative to that of the FP16 graph."""
        times = {kept: self.latency(trials.make(layers_of(kept)).graph) for kept in front}
        unit = times[fp16]
        return {kept: time / unit if time and unit else None for kept, time in times.items()}


def _expected(units: int) -> int:
    """Graphs that a search tries where half the units return: in two orders the prefixes, then each unit of one."""
    return 4 * units.bit_length() + units


def _safer(kept: Kept, order: Sequence[Unit]) -> Iterator[Kept]:
    """``kept``, and with ever more units, the worst first."""
    others = [unit for unit in order if unit not in kept]
    return (kept.union(more) for more in (_NONE, *_doubling(others)))


def _doubling(order: Sequence[Unit]) -> list[Kept]:
    """The first 1, 2, 4, … units, less than all."""
    return [frozenset(order[: 2**power]) for power in range(len(order).bit_length()) if 2**power < len(order)]


def _row(sensitivity: Sensitivity) -> dict[str, Any]:
    decibel = sensitivity.sqnr_db
    return {
        "layer": sensitivity.unit.name,
        "drop": sensitivity.drop,
        "sqnr_db": decibel if math.isfinite(decibel) else None,  # JSON has no infinity
        "macs": sensitivity.unit.macs,
    }


def _rounded(images: int) -> int:
    """Up, to two digits."""
    step = int(10 ** max(len(str(images)) - 2, 0))
    return -(-images // step) * step
