"""The options that go to the builder itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.engine.options import BuildOptions


COMPATIBLE = ("version", "ampere+", "same-cc")


def add_builder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="kernel times kept between builds, as trtexec --timingCacheFile (tensorrt)",
    )
    parser.add_argument("--workspace", type=float, metavar="GIB", help="scratch memory one layer may use, in GiB")
    parser.add_argument(
        "--tactic-memory", type=float, metavar="GIB", help="GPU memory for timing kernels, in GiB (tensorrt)"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        metavar="0..5",
        help="0: quickest build, 5: fastest engine (default 3)",
    )
    parser.add_argument(
        "--aux-streams", type=int, metavar="N", help="CUDA streams one run may use beside its own (default: it decides)"
    )
    parser.add_argument(
        "--compute-capability", metavar="X.Y", help="the GPU to build for, such as 8.9 (tensorrt_rtx; default: any)"
    )
    parser.add_argument(
        "--compatible",
        action="append",
        default=[],
        choices=COMPATIBLE,
        help="run in newer releases too (version), on Ampere and newer GPUs (ampere+), or on all GPUs of this compute "
        "capability (same-cc); may cost speed; may be given again (tensorrt)",
    )
    parser.add_argument(
        "--strip-weights",
        action="store_true",
        help="a small engine, as trtexec --stripWeights: it takes its weights from its graph when it is loaded (GPU)",
    )


def builder_options(args: argparse.Namespace) -> BuildOptions:
    """What was given. Raises :class:`InputError` for values that no builder takes."""
    from deploy.engine.compatible import Compatible
    from deploy.engine.options import BuildOptions

    return BuildOptions(
        workspace_gib=args.workspace,
        tactic_memory_gib=args.tactic_memory,
        optimization_level=args.optimization_level,
        aux_streams=args.aux_streams,
        compute_capability=args.compute_capability,
        timing_cache=args.timing_cache,
        compatible=tuple(each for each in Compatible if each.value in args.compatible),
        strip_weights=args.strip_weights,
    )
