"""What was really done with the artefacts of a build, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.engine.loading import Loading
from deploy.errors import MachineError
from deploy.parity.compare import Comparison
from deploy.runtime.base import Runner
from deploy.runtime.timing import HoldsDeviceMemory
from deploy.specs import Precision
from deploy.workflows.judge import Judge
from deploy.workflows.quantize import Quantized
from deploy.workflows.request import Reporter
from deploy.workflows.source import Source


class Evidence:
    """One graph's and its engine's.

    Attributes:
        lines: for the user: parsed, compiled, simulated, executed.
        verdicts: the comparisons with the FP32 graph.
        device_memory: what the engine took of the GPU's memory, in bytes; None where it was not run.
        parity: their figures for the manifest, behind those that the source's has.
    """

    def __init__(self, source: Source, judge: Judge, report: Reporter, *, real: bool) -> None:
        """``real``: images were given."""
        self._source, self._judge, self._report, self._real = source, judge, report, real
        self.lines: list[str] = []
        self.verdicts: dict[str, Comparison] = {}
        self.parity = source.manifest.parity
        self.device_memory: int | None = None

    def simulate(self, name: str, made: Quantized, precision: Precision) -> None:
        """Compare a graph's twin. Raises as :meth:`Judge.compare_graph`."""
        judge = self._judge
        self._report.note(f"comparing the {precision} graph with {judge.reference} on {judge.inputs}")
        self._record("graph", "simulated", judge.compare_graph(made.graph, f"the {precision} graph", made.facts))
        self.lines.append(f"{name}: simulated on CPU by its twin, on {judge.inputs}")

    def execute(self, plan: Path, name: str, compiled: str, loading: Loading, *, elsewhere: bool) -> None:
        """Run a plan and compare it.

        Args:
            plan: where it lies now.
            name: what it will be called.
            compiled: in words, what was done with it before.
            loading: what it needs to be loaded.
            elsewhere: it may be for another GPU than this one: that it does not run here is then only said.

        Raises:
            CheckFailed: see :meth:`Judge.compare`.
            MachineError: it does not run here.
        """
        from deploy.runtime.trt import open_plan

        try:
            opened = open_plan(plan, eager=True, loading=loading)
        except MachineError as error:
            if not elsewhere:
                raise
            self.lines.append(f"{compiled}, not executed: {error.headline}")
            self._report.warn(f"the engine does not run here: {error.headline}")
            return
        with opened as runner:
            self.lines += [compiled, f"{name}: {runner.execution}, on {self._judge.inputs}"]
            self._compare(runner, name)
            self.device_memory = runner.device_memory() if isinstance(runner, HoldsDeviceMemory) else None

    def _compare(self, runner: Runner, name: str) -> None:
        if self._source.nms is None:
            self._record("plan", runner.execution, self._judge.compare(runner, "the engine"))
        else:
            agreement = self._judge.compare_detections(runner, "the engine")
            self.lines.append(f"{name}: {agreement}")
            self._state(runner.execution, agreement.to_dict())

    def _record(self, what: str, how: str, comparison: Comparison) -> None:
        self.verdicts[what] = comparison
        self._state(how, comparison.to_dict())

    def _state(self, how: str, figures: dict[str, Any]) -> None:
        # Not where the images lie: an artefact travels, and paths tell of the machine that made it.
        fed = "real images" if self._real else "synthetic images"
        self.parity = (*self.parity, {"against": self._judge.reference, "how": how, "input": fed, **figures})
