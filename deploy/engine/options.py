"""What a builder is told, and how that is written into TensorRT's configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import hardware
from deploy.engine.api import IBuilderConfig, TensorRt
from deploy.engine.compatible import Compatible, check_compatible, set_compatible
from deploy.engine.flavours import Flavour
from deploy.engine.timing import check_timing_cache
from deploy.errors import InputError, MachineError


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told. None leaves TensorRT's default.

    Attributes:
        workspace_gib: most scratch memory one layer may use, in GiB.
        tactic_memory_gib: most GPU memory the builder may use to time kernels, in GiB (TensorRT's pool ``TACTIC_DRAM``;
            on a Jetson, whose memory is shared, the host memory of the build counts too).
        optimization_level: 0 (quickest build) to 5 (fastest plan).
        aux_streams: most CUDA streams that one run may use beside its own; 0: none.
        compute_capability: the GPU to build for, for example ``8.9``, where it is not the one here (TensorRT-RTX).
        timing_cache: file of kernel times, read and rewritten (TensorRT).
        compatible: what the plan is compatible with beyond this release and this GPU (TensorRT).
        strip_weights: leave the weights out of the plan: they come from its graph when it is loaded. Takes a GPU.
    """

    workspace_gib: float | None = None
    tactic_memory_gib: float | None = None
    optimization_level: int | None = None
    aux_streams: int | None = None
    compute_capability: str | None = None
    timing_cache: Path | None = None
    compatible: tuple[Compatible, ...] = ()
    strip_weights: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError("unknown optimization level", got=self.optimization_level, expected="0 to 5")
        if self.compute_capability is not None and not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise InputError("unknown compute capability", got=self.compute_capability, expected="X.Y, such as 8.9")
        if self.aux_streams is not None and self.aux_streams < 0:
            raise InputError("auxiliary streams are a count", got=self.aux_streams, expected="0 or more")
        for name, size in (("workspace", self.workspace_gib), ("tactic memory", self.tactic_memory_gib)):
            if size is not None and not 1 <= size * 2**30 < 2**63:
                raise InputError(f"the {name} is in GiB", got=size, expected="more than 0")


DEFAULT_OPTIONS = BuildOptions()


def check_supported(flavour: Flavour, options: BuildOptions) -> None:
    """Fail before the build: :class:`InputError` for an option that the flavour lacks or a file it cannot write.

    :class:`MachineError` for one that takes a GPU where there is none.
    """
    title = flavour.can.title
    if options.compute_capability is not None and not flavour.can.compute_capabilities:
        raise InputError(
            f"{title} builds for the GPU of this machine only",
            got=f"compute capability {options.compute_capability}",
            fix="Build on a machine with that GPU.",
        )
    if options.tactic_memory_gib is not None and not flavour.can.timing_cache:
        raise InputError(
            f"{title} has no tactic memory",
            got=f"{options.tactic_memory_gib:g} GiB",
            fix="Leave --tactic-memory out: its builder measures nothing.",
        )
    check_compatible(flavour, options.compatible)
    if options.strip_weights and Compatible.VERSION in options.compatible:
        # The lean runtime, which runs them in another release, has no refitter:
        # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html
        raise InputError(
            "a plan that later releases run cannot take its weights when it is opened",
            got=f"--compatible {Compatible.VERSION} and --strip-weights",
            expected="one of them",
            fix="Leave --strip-weights out.",
        )
    if options.strip_weights and not hardware.devices():
        # TensorRT-RTX compiles on a CPU what it need not compile again once the weights are there.
        raise MachineError(
            f"{title} strips weights only where there is a GPU",
            got="no NVIDIA GPU",
            fix="Leave --strip-weights out, or build on a machine with a GPU.",
        )
    check_timing_cache(flavour, options.timing_cache)


def configure(config: IBuilderConfig, flavour: Flavour, options: BuildOptions) -> None:
    """Tell the builder. Raises :class:`InputError` for a compute capability that it does not know."""
    trt = flavour.module
    # Detailed names cost nothing at run time and let the inspector say which Q/DQ nodes fused.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT allows TF32 by default, which rounds FP32 convolutions to 11 bits: errors of 1e-3.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.tactic_memory_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, int(options.tactic_memory_gib * 2**30))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.aux_streams is not None:
        config.max_aux_streams = options.aux_streams
    if options.compute_capability is not None:
        _set_compute_capability(trt, config, flavour, options.compute_capability)
    set_compatible(config, flavour, options.compatible)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)


def _set_compute_capability(trt: TensorRt, config: IBuilderConfig, flavour: Flavour, wanted: str) -> None:
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
        "tactic_memory_gib": options.tactic_memory_gib,
        "aux_streams": options.aux_streams,
        "compute_capability": options.compute_capability,
        "compatible": [str(each) for each in options.compatible] or None,
        "strip_weights": options.strip_weights,
    }
