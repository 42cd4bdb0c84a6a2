"""How long a precise graph takes as an engine on the GPU of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from deploy.engine.build import build_engine
from deploy.engine.compatible import Compatible
from deploy.engine.flavours import Flavour
from deploy.engine.loading import Loading
from deploy.engine.options import DEFAULT_OPTIONS, BuildOptions
from deploy.engine.progress import Progress
from deploy.errors import DeployError
from deploy.graph import files
from deploy.runtime.trt_profile import TimedRunner
from deploy.specs import ShapeProfile


@dataclass(frozen=True)
class Measured:
    """A :class:`deploy.quantize.latency.Latency` in milliseconds at ``batch.opt`` images. Each graph costs a build.

    Attributes:
        gpu: its name.
        warn: told of a graph that cannot be measured.
    """

    flavour: Flavour
    batch: ShapeProfile
    gpu: str
    options: BuildOptions = DEFAULT_OPTIONS
    progress: Progress | None = None
    warn: Callable[[str], None] = print

    @property
    def how(self) -> str:
        return f"measured on {self.gpu}"

    def __call__(self, precise: ir.Model) -> float | None:
        """None where the graph cannot be built or run here."""
        try:
            with self.load(self.plan(precise)) as runner:
                return runner.milliseconds()
        except DeployError as error:
            self.warn(f"the time of one graph is unknown: {error.headline}")
            return None

    def plan(self, precise: ir.Model) -> bytes:
        """Build the engine, with weights. Raises as :func:`deploy.engine.build.build_engine`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            return build_engine(
                files.write(path, precise),
                flavour=self.flavour,
                batch=self.batch,
                options=replace(self.options, strip_weights=False),
                path=path,
                progress=self.progress,
            ).plan

    def load(self, plan: bytes) -> TimedRunner:
        """Raises :class:`MachineError` where the GPU cannot take it."""
        return TimedRunner(plan, self.flavour, loading=Loading(Compatible.VERSION in self.options.compatible))
