"""Model name → ONNX file: load, export, simplify, each step compared with PyTorch before anything is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploy.artifacts import check_writable
from deploy.errors import CheckFailed, InputError
from deploy.graph import files
from deploy.graph.export import export_graph
from deploy.graph.simplify import simplify
from deploy.images.classify import read_labels
from deploy.images.detect import BOXES, SCORES
from deploy.manifest import Manifest
from deploy.parity.compare import Accumulator, Comparison
from deploy.parity.inputs import synthetic_batches
from deploy.parity.limits import ALIKE, DEFAULT_LIMITS
from deploy.runtime.graphs import run_graph
from deploy.runtime.networks import Network, load_network
from deploy.runtime.rows import infer_rows
from deploy.specs import NetworkOptions, NmsSettings, Precision
from deploy.tools import tool_versions
from deploy.workflows.source import with_nms

GATE_BATCHES = (1, 2, 5)


@dataclass(frozen=True)
class ExportRequest:
    """What to export. ``batch`` None is dynamic; ``labels`` is a file of class names; ``nms`` is a detector's tail."""

    model: str
    network: NetworkOptions = NetworkOptions()
    labels: Path | None = None
    batch: int | None = None
    simplify: bool = True
    nms: NmsSettings | None = None


@dataclass(frozen=True)
class ExportReport:
    """What was exported. ``steps`` holds seconds, ``parity`` the comparison with PyTorch after each graph step."""

    path: Path
    manifest: Manifest
    nodes: dict[str, int]
    operators: dict[str, int]
    parity: dict[str, Comparison]
    steps: dict[str, float]
    reason_for_random: str | None
    notes: tuple[str, ...]


def export_model(
    request: ExportRequest, output: Path, note: Callable[[str], None], downloading: Callable[[int, int | None], None]
) -> ExportReport:
    """Export to ``output``; nothing is written unless every step agrees with PyTorch.

    Raises:
        InputError: unknown model, wrong weights or sizes, unwritable output.
        CheckFailed: a step's graph differs from PyTorch.
    """
    check_writable(output)
    labels = read_labels(request.labels) if request.labels else None
    clock = _Clock()
    note(f"loading {request.model}")
    network = load_network(request.model, request.network, labels, downloading)
    clock.lap("load")
    if request.nms is not None and {spec.name for spec in network.outputs} != {BOXES, SCORES}:
        got = ", ".join(map(str, network.outputs))
        raise InputError(f"NMS is for detectors, and {request.model} is none", got=got, fix="Leave out --nms.")
    note("exporting with torch.export")
    graph = export_graph(network.module, network.inputs, [spec.name for spec in network.outputs], request.batch)
    nodes, parity = {"exported": len(graph.graph)}, {}
    clock.lap("export")
    gate = _Gate(network, request.batch)
    parity["exported"] = gate.check(graph, "exported")
    clock.lap("check")
    if request.simplify and not files.fits(graph):
        note("not simplified: onnxsim takes graphs of 2 GB at most")
    elif request.simplify:
        note("simplifying with onnxsim")
        graph = simplify(graph)
        nodes["simplified"] = len(graph.graph)
        clock.lap("simplify")
        parity["simplified"] = gate.check(graph, "simplified")
        clock.lap("check")
    manifest = _manifest(request, network, parity, gate)
    if request.nms is not None:
        graph, manifest = with_nms(graph, manifest, request.nms)
    files.save(output, graph, manifest)
    operators = dict(Counter(node.op_type for node in graph.graph).most_common())
    return ExportReport(
        output, manifest, nodes, operators, parity, clock.laps, network.reason_for_random, network.notes
    )


class _Gate:
    """Compares graphs with PyTorch on several batch sizes; PyTorch runs once."""

    def __init__(self, network: Network, batch: int | None) -> None:
        sizes = (batch,) if batch else GATE_BATCHES
        self._network = network
        with network.runner() as reference:
            self._feeds = list(synthetic_batches(reference.inputs, network.preprocessing, sizes))
            self._wanted = [reference.infer(feeds) for feeds in self._feeds]

    def check(self, graph: ir.Model, step: str) -> Comparison:
        """The comparison of the output that is furthest off.

        Raises:
            CheckFailed: an output is too far off.
        """
        accumulators = {name: Accumulator() for name in self._wanted[0]}
        with run_graph(graph) as runner:
            self.tensors = {"inputs": runner.inputs, "outputs": runner.outputs}
            for feeds, wanted in zip(self._feeds, self._wanted):
                got = infer_rows(runner, feeds)
                for name, accumulator in accumulators.items():
                    accumulator.update(wanted[name], got[name])
        comparisons = {name: accumulator.result() for name, accumulator in accumulators.items()}
        reasons = DEFAULT_LIMITS[Precision.FP32].all_failures(comparisons)
        failures = [f"{name}: {reason}" for name, each in reasons.items() for reason in each]
        if failures:
            raise self._refusal(step, "; ".join(failures))
        return max(comparisons.values(), key=lambda comparison: comparison.relative)

    def _refusal(self, step: str, reasons: str) -> CheckFailed:
        if ALIKE in reasons:
            return CheckFailed(
                "the export cannot be checked; nothing was written",
                got=reasons,
                fix="Give trained weights and the --mean and --std they want, or --weights random to try things out.",
            )
        if not self._repeats():
            return CheckFailed(
                "PyTorch itself gives other outputs each time; nothing was written",
                fix="Turn off what is random in evaluation mode: a dropout that is always on, noise.",
            )
        fix = "If the weights are trained ones, please report the model."
        return CheckFailed(
            f"the {step} graph differs from PyTorch; nothing was written",
            got=reasons,
            fix=f"Export with --no-simplify. {fix}" if step == "simplified" else fix,
        )

    def _repeats(self) -> bool:
        with self._network.runner() as reference:
            again = reference.infer(self._feeds[0])
        return all(np.array_equal(value, again[name]) for name, value in self._wanted[0].items())


class _Clock:
    """Seconds per step; a step named twice adds up."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _manifest(request: ExportRequest, network: Network, parity: dict[str, Comparison], gate: _Gate) -> Manifest:
    last = list(parity)[-1]
    figures = {"against": "pytorch", "graph": last, "input": "synthetic images", **parity[last].to_dict()}
    return Manifest(
        model=request.model,
        task=network.task,
        precision=Precision.FP32,
        inputs=gate.tensors["inputs"],
        outputs=gate.tensors["outputs"],
        weights=network.weights,
        preprocessing=network.preprocessing,
        labels=network.labels,
        parameters=network.parameters,
        macs=network.macs,
        tools=tool_versions("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime"),
        parity=(figures,),
    )
