"""What a build is asked for, what it reports on the way and at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.artifacts import ArtifactNames
from deploy.engine.options import DEFAULT_OPTIONS, BuildOptions
from deploy.engine.progress import Progress as BuildProgress
from deploy.manifest import Manifest
from deploy.parity.compare import Comparison
from deploy.quantize.recipe import Recipe
from deploy.specs import Precision, ShapeProfile


class Reporter(Protocol):
    """Where a build says what it is doing."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def counter(self, label: str) -> Callable[[int, int], None]:
        """Where a step called ``label`` reports (done, total)."""
        ...

    @property
    def phases(self) -> BuildProgress: ...


@dataclass(frozen=True)
class BuildRequest:
    """What to build. Backend ``none`` stops at the graph; no ``output``, or a folder: files named by the graph.

    ``recipe`` is for INT8; None: the default one. ``calibration_cache`` is a file of TensorRT's implicit quantization,
    to read where it exists and else to write.
    With a GPU, layers that INT8 does not make faster stay FP16, but for ``keep_int8``.
    With ``max_drop``, points of top-1 accuracy, as many layers as it takes stay FP16; counted on ``eval_data``.
    """

    onnx: Path
    precision: Precision
    calibration_data: Path | None = None
    calibration_method: str | None = None
    calibration_images: int | None = None
    recipe: Recipe | None = None
    calibration_cache: Path | None = None
    keep_int8: bool = False
    max_drop: float | None = None
    eval_data: Path | None = None
    batch: ShapeProfile | None = None
    backend: str = "auto"
    options: BuildOptions = DEFAULT_OPTIONS
    output: Path | None = None
    image_size: tuple[int, int] | None = None
    log: Path | None = None

    def names(self) -> ArtifactNames:
        """What the artefacts are called."""
        if self.output is None:
            return ArtifactNames.of(Path(self.onnx.name))
        return ArtifactNames.of(self.output / self.onnx.name if self.output.is_dir() else self.output)

    @property
    def cache_to_read(self) -> Path | None:
        """The calibration cache that was given and exists."""
        cache = self.calibration_cache
        return cache if cache is not None and cache.exists() else None

    @property
    def cache_to_write(self) -> Path | None:
        """The calibration cache that was asked for and is not there yet."""
        return None if self.cache_to_read else self.calibration_cache

    @property
    def file(self) -> Path | None:
        """The path of the engine, or of the graph under backend ``none``, where it was given."""
        return None if self.output is None or self.output.is_dir() else self.output


@dataclass(frozen=True)
class BuildReport:
    """What was built. ``verdicts`` compare the precise graph, and an engine that ran, with the FP32 graph.

    ``evidence`` says for each artefact what was really done with it: parsed, compiled, simulated, executed.
    ``calibration_cache`` is one that was written.
    """

    onnx: Path
    plan: Path | None
    manifest: Manifest
    verdicts: Mapping[str, Comparison]
    evidence: tuple[str, ...]
    builder_warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    calibration_cache: Path | None = None
