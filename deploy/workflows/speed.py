"""INT8 where it is faster: with a GPU, the layers that are not go back to FP16."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace

from deploy.engine.refusals import NoImplementationError
from deploy.errors import DeployError
from deploy.graph.rules import WEIGHTED
from deploy.quantize.faster import Times, not_faster
from deploy.quantize.measured import Measured
from deploy.workflows.quantize import Int8
from deploy.workflows.refused import MOST_ROUNDS, refusal_text, refused_nodes
from deploy.workflows.request import Reporter

ROUNDS = 5


def faster_layers(int8: Int8, measured: Measured, report: Reporter, rounds: int = MOST_ROUNDS) -> Int8:
    """``int8`` without the layers that are not faster in INT8 on this GPU, where the engine is no slower for it.

    Builds the INT8 engine, the FP16 engine of the same graph, and the one that follows from their layers' times. Layers
    that the builder refuses in INT8 leave it first, a round for each refusal.
    """
    try:
        return _Comparison(int8, measured, report).run()
    except NoImplementationError as error:
        refused = refused_nodes(int8.quantized({}).graph, error)
        if rounds and refused.keys() - int8.refused.keys():
            report.warn(refusal_text(list(refused), error))
            return faster_layers(int8.without(refused), measured, report, rounds - 1)
        report.warn(f"layers were not compared between INT8 and FP16: {error.headline}")
    except DeployError as error:
        report.warn(f"layers were not compared between INT8 and FP16: {error.headline}")
    return int8


@dataclass(frozen=True)
class _Comparison:
    int8: Int8
    measured: Measured
    report: Reporter

    def run(self) -> Int8:
        layers = self._layers()
        self.report.note(f"timing {len(layers)} INT8 layers on {self.measured.gpu}, beside FP16")
        before = self._plan(self.int8)
        rounds = self._rounds(before, self._plan(self._returned(dict.fromkeys(layers, "to compare with"))))
        if not all(times for pair in rounds for times in pair):
            self.report.warn("layers were not compared between INT8 and FP16: the engine does not tell which they are")
            return self.int8
        slow = not_faster(rounds, layers, self._helpers())
        if not slow:
            self.report.note("INT8 is faster than FP16 in every layer that it takes")
            return self.int8
        if len(slow) == len(layers):
            self.report.warn(f"no layer is faster in INT8 on {self.measured.gpu}: try --precision fp16")
            return self.int8
        return self._judged(slow, before, len(layers))

    def _judged(self, slow: dict[str, str], before: bytes, layers: int) -> Int8:
        returned = self._returned(slow)
        old, new = self._wholes(before, self._plan(returned))
        accepted = new <= old
        self.report.note(
            f"not faster in INT8: {len(slow)} of {layers} layers, which {'return to FP16' if accepted else 'stay so'}: "
            f"the engine takes {new:.3g} ms with them in FP16, {old:.3g} ms in INT8"
        )
        return returned if accepted else self.int8

    def _layers(self) -> dict[str, str]:
        """Layers in INT8 → their weights, by name."""
        placed = self.int8.placement({})
        nodes = [node for node in self.int8.graph.graph if node.op_type in WEIGHTED]
        return {str(n.name): str(n.inputs[1].name) for n in nodes if n.inputs[1] and n.name not in placed.left_out}

    def _returned(self, layers: dict[str, str]) -> Int8:
        return replace(self.int8, unfit={**self.int8.unfit, **layers})

    def _helpers(self) -> dict[str, set[str]]:
        """The names that :func:`deploy.graph.qdq.insert_qdq` gives → whom they quantize for."""
        readers = defaultdict[str, set[str]](set)
        for edge in self.int8.placement({}).activations:
            for kind in ("QuantizeLinear", "DequantizeLinear"):
                readers[f"{edge.tensor}/{kind}"].add(edge.node)
        for node, weight in self._layers().items():
            readers[f"{weight}/DequantizeLinear"].add(node)
        return dict(readers)

    def _plan(self, int8: Int8) -> bytes:
        return self.measured.plan(int8.quantized({}).graph)

    def _rounds(self, int8: bytes, fp16: bytes) -> list[tuple[Times, Times]]:
        """Interleaved: clocks and temperature change for both alike."""
        with self.measured.load(int8) as one, self.measured.load(fp16) as other:
            return [(one.layer_milliseconds(), other.layer_milliseconds()) for _ in range(ROUNDS)]

    def _wholes(self, before: bytes, after: bytes) -> tuple[float, float]:
        with self.measured.load(before) as one, self.measured.load(after) as other:
            rounds = [(one.milliseconds(), other.milliseconds()) for _ in range(ROUNDS)]
        return statistics.median(old for old, _ in rounds), statistics.median(new for _, new in rounds)
