"""An ONNX graph → the FP32, FP16 or INT8 graph and a TensorRT engine: quantize, verify, build.

python build_engine.py mobilenet_v3_large.onnx --precision fp16
python build_engine.py mobilenet_v3_large.onnx --precision int8 --calibration-data photos/ --batch 1:8:32
python build_engine.py mobilenet_v3_large.onnx --precision int8 --calibration-data photos/ --backend none
python build_engine.py mobilenet_v3_large.onnx --precision int8 --calibration-data photos/ --max-drop 0.5
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.builder import add_builder_options, builder_options
from deploy.cli.console import BuildReporter, Console
from deploy.cli.facts import inspection_rows, quantization_rows
from deploy.cli.options import add_image_size, output_path
from deploy.cli.pareto import print_front
from deploy.errors import InputError
from deploy.specs import Precision, ShapeProfile

if TYPE_CHECKING:
    from deploy.parity.compare import Comparison
    from deploy.workflows.request import BuildReport

METHODS = ("max", "percentile", "entropy", "mse")
RECIPES = ("fast", "best")
PARTS = ("equalization", "reconstruction", "rounding", "bias-correction")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", metavar="MODEL.onnx", type=Path, help="the FP32 graph")
    parser.add_argument("--precision", required=True, choices=[str(p) for p in Precision], help="what to compute in")
    parser.add_argument(
        "--calibration-data", type=Path, metavar="DIR|FILE.npz", help="typical images, or arrays named as the inputs"
    )
    parser.add_argument("--calibration-method", choices=METHODS, help="how ranges are chosen (default mse)")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="fast (default): ranges and equalized channels; best: every layer is fitted to the images too (minutes)",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=PARTS,
        metavar="PART",
        help=f"leave out one part of the recipe: {', '.join(PARTS)} (may be given again)",
    )
    parser.add_argument("--calibration-images", type=int, metavar="N", help="at most this many images (default 512)")
    parser.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="a calibration cache of TensorRT's (trtexec --calib): read where it exists, and calibration is skipped; "
        "else written",
    )
    parser.add_argument(
        "--keep-int8",
        action="store_true",
        help="with a GPU (tensorrt): INT8 also for layers that it does not make faster there (default: they stay FP16)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="of top-1 accuracy that INT8 may lose; as many layers as it takes stay FP16",
    )
    parser.add_argument(
        "--eval-data",
        type=Path,
        metavar="DIR",
        help="DIR/<class>/*.jpg to count that on (default: against FP32's answers on the calibration images)",
    )
    parser.add_argument(
        "--batch", metavar="MIN:OPT:MAX", help="batch sizes the engine takes (default 1:8:32, or the graph's fixed one)"
    )
    add_image_size(parser, "for a graph that leaves them open: height and width of its input in pixels")
    parser.add_argument(
        "--backend",
        choices=("auto", "tensorrt", "tensorrt_rtx", "none"),
        default="auto",
        help="auto: tensorrt where it is installed and there is a GPU, else tensorrt_rtx, which builds on a CPU; "
        "none: stop at the precise graph",
    )
    add_builder_options(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="write everything the builder says to a file")
    parser.add_argument(
        "-o", "--output", type=output_path, metavar="FILE|DIR", help="the engine (default ./MODEL.PRECISION[.rtx].plan)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.quantize.recipe import DEFAULT_RECIPE, Recipe
    from deploy.workflows.build import build
    from deploy.workflows.request import BuildRequest

    if args.calibration_images is not None and args.calibration_images < 1:
        raise InputError("--calibration-images is a count", got=args.calibration_images, expected="1 or more")
    request = BuildRequest(
        onnx=args.onnx,
        precision=Precision(args.precision),
        calibration_data=args.calibration_data,
        calibration_method=args.calibration_method,
        calibration_images=args.calibration_images,
        recipe=Recipe.of(args.recipe or DEFAULT_RECIPE, args.without) if args.recipe or args.without else None,
        calibration_cache=args.calibration_cache,
        keep_int8=args.keep_int8,
        max_drop=args.max_drop,
        eval_data=args.eval_data,
        batch=ShapeProfile.parse(args.batch) if args.batch else None,
        backend=args.backend,
        options=builder_options(args),
        output=args.output,
        image_size=args.image_size,
        log=args.log,
    )
    with console.bars() as bars:
        report = build(request, BuildReporter(console, bars))
    for warning in report.builder_warnings:
        console.warn(f"builder: {warning}")
    _print(report, console)
    return 0


def _print(report: BuildReport, console: Console) -> None:
    if console.as_json:
        console.document(_document(report))
        return
    manifest = report.manifest
    search = (manifest.quantization or {}).get("search")
    if search is not None:
        print_front(search, console)
    rows = [["graph", _sized(report.onnx)], *([["engine", _sized(report.plan)]] if report.plan else [])]
    rows += [[f"{what} against FP32", _figures(comparison)] for what, comparison in report.verdicts.items()]
    rows += quantization_rows(manifest.quantization or {})
    if manifest.engine is not None:
        rows.append(["batch", str(manifest.engine.batch)])
        rows += inspection_rows(manifest.engine.inspection)
    if report.calibration_cache is not None:
        rows.append(["calibration cache", f"{report.calibration_cache}, for trtexec --int8 --calib"])
    rows += [["evidence", text] for text in report.evidence]
    rows.append(["seconds", ", ".join(f"{step} {seconds:.1f}" for step, seconds in report.seconds.items())])
    console.table([f"{manifest.model} {manifest.precision}", "built"], rows)


def _sized(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.1f} MB)"


def _figures(comparison: Comparison) -> str:
    return (
        f"SQNR {comparison.sqnr_db:.1f} dB, cosine {comparison.cosine:.4f}, top-1 agreement "
        f"{100 * comparison.top1:.1f} % of {comparison.samples}, max relative error {comparison.relative:.1e}"
    )


def _document(report: BuildReport) -> dict[str, Any]:
    return {
        "onnx": str(report.onnx),
        "plan": str(report.plan) if report.plan else None,
        "calibration_cache": str(report.calibration_cache) if report.calibration_cache else None,
        "verdicts": {what: comparison.to_dict() for what, comparison in report.verdicts.items()},
        "evidence": list(report.evidence),
        "refused": (report.manifest.quantization or {}).get("refused", {}),
        "builder_warnings": list(report.builder_warnings),
        "seconds": dict(report.seconds),
        "manifest": report.manifest.to_dict(),
    }
