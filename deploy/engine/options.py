"""What a builder is told, and how that is written into TensorRT's configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.engine.api import IBuilderConfig, TensorRt
from deploy.engine.flavours import Flavour
from deploy.errors import InputError


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told. None leaves TensorRT's default.

    Attributes:
        workspace_gib: most scratch memory one layer may use, in GiB.
        optimization_level: 0 (quickest build) to 5 (fastest plan).
        compute_capability: the GPU to build for, for example ``8.9``, where it is not the one here (TensorRT-RTX).
        timing_cache: file of kernel times, read and rewritten (TensorRT).
    """

    workspace_gib: float | None = None
    optimization_level: int | None = None
    compute_capability: str | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError("unknown optimization level", got=self.optimization_level, expected="0 to 5")
        if self.compute_capability is not None and not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise InputError("unknown compute capability", got=self.compute_capability, expected="X.Y, such as 8.9")
        if self.workspace_gib is not None and self.workspace_gib <= 0:
            raise InputError("the workspace is in GiB", got=self.workspace_gib, expected="more than 0")


DEFAULT_OPTIONS = BuildOptions()


def configure(config: IBuilderConfig, flavour: Flavour, options: BuildOptions) -> None:
    """Tell the builder. Raises :class:`InputError` for an option that the flavour lacks."""
    trt = flavour.module
    # Detailed names cost nothing at run time and let the inspector say which Q/DQ nodes fused.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT allows TF32 by default, which rounds FP32 convolutions to 11 bits: errors of 1e-3.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.compute_capability is not None:
        _set_compute_capability(trt, config, flavour, options.compute_capability)


def _set_compute_capability(trt: TensorRt, config: IBuilderConfig, flavour: Flavour, wanted: str) -> None:
    if not flavour.can.compute_capabilities:
        raise InputError(
            f"{flavour.can.title} builds for the GPU of this machine only",
            got=f"compute capability {wanted}",
            fix="Build on a machine with that GPU.",
        )
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    name = f"SM{wanted.replace('.', '')}"
    if name not in known:
        texts = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in known)
        raise InputError(f"{flavour} cannot build for this compute capability", got=wanted, expected=f"one of {texts}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def settings(trt: TensorRt, config: IBuilderConfig, options: BuildOptions) -> dict[str, Any]:
    """What the plan was built with, defaults included: TF32 decides how exact FP32 convolutions are."""
    return {
        "strongly_typed": True,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "optimization_level": int(config.builder_optimization_level),
        "workspace_gib": options.workspace_gib,
        "compute_capability": options.compute_capability,
    }
