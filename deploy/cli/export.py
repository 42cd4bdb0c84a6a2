"""A PyTorch model by name → a simplified ONNX graph, compared with PyTorch at every step.

python export.py --model mobilenet_v3_large
python export.py --model mobilenet_v3_small --weights digits.safetensors --num-classes 10 --image-size 64
python export.py --model timm:convnext_tiny
python export.py --model train/net.py:make_net --weights best.pth --image-size 320
python export.py --model yolov5s --nms --score-threshold 0.4
python export.py --list
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console
from deploy.cli.options import (
    NMS_OPTIONS,
    add_network_options,
    add_nms_options,
    network_options,
    nms_settings,
    output_path,
)
from deploy.errors import InputError
from deploy.specs import NmsSettings

if TYPE_CHECKING:
    from deploy.workflows.export import ExportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="as --list names it; torchvision:NAME; timm:NAME; package.module:factory; file.py:factory",
    )
    parser.add_argument("--list", action="store_true", help="list the models and exit")
    add_network_options(parser)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    parser.add_argument(
        "--batch",
        default="dynamic",
        metavar="dynamic|N",
        help="a dynamic batch axis, or a fixed size (default dynamic)",
    )
    parser.add_argument("--nms", action="store_true", help="end a detector's graph in non-maximum suppression")
    add_nms_options(parser)
    parser.add_argument("--no-simplify", action="store_true", help="leave out onnxsim")
    parser.add_argument(
        "-o", "--output", type=output_path, metavar="FILE|DIR", help="where to write (default ./NAME.onnx)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    if args.list:
        return _list(console)
    if not args.model:
        raise InputError("which model?", expected="--model NAME", fix="All names: python export.py --list")
    from deploy.workflows.export import ExportRequest, export_model

    request = ExportRequest(
        args.model,
        network_options(args),
        labels=args.labels,
        batch=_batch(args.batch),
        simplify=not args.no_simplify,
        nms=_nms(args),
    )
    with console.bars() as bars:
        report = export_model(
            request, _output(args.output, args.model), console.note, bars.counter("downloading the weights")
        )
    for note in report.notes:
        console.warn(note)
    if report.reason_for_random:
        console.warn(report.reason_for_random)
    if report.manifest.weights.warning:
        console.warn(report.manifest.weights.warning)
    _print(report, console)
    return 0


def _nms(args: argparse.Namespace) -> NmsSettings | None:
    given = [f"--{name.replace('_', '-')}" for name in NMS_OPTIONS if getattr(args, name) is not None]
    if given and not args.nms:
        raise InputError(f"{given[0]} is a setting of --nms", fix="Give --nms too, or this to infer.")
    return nms_settings(args) if args.nms else None


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError("cannot read the batch size", got=text, expected="dynamic, or a number of 1 or more")
    return int(text)


def _output(given: Path | None, model: str) -> Path:
    name = f"{model.rpartition(':')[2]}.onnx"  # timm:resnet50 is resnet50.onnx
    if given is not None and given.suffix == ".plan":
        raise InputError(f"a graph is not an engine: {given}", expected="-o FILE.onnx")
    if given is None:
        return Path(name)
    return given / name if given.is_dir() else given


def _list(console: Console) -> int:
    from deploy.runtime.networks import model_table

    models = model_table()
    if console.as_json:
        console.document(models)
        return 0
    columns = ["model", "parameters", "GMACs", "input", "top-1 %", "aliases", "note"]
    rows = [
        [
            m["name"],
            f"{m['parameters']:,}",
            f"{m['gmacs']:.3f}",
            m["input_size"],
            m["top1"] or "",
            ", ".join(m["aliases"]),
            m["note"],
        ]
        for m in models
    ]
    shown = len(columns) if any(m["note"] for m in models) else -1
    console.table(columns[:shown], [row[:shown] for row in rows])
    return 0


def _print(report: ExportReport, console: Console) -> None:
    if console.as_json:
        console.document(_document(report))
        return
    manifest, last = report.manifest, list(report.parity.values())[-1]
    nodes = " → ".join(f"{count} {step}" for step, count in report.nodes.items())
    rows = [
        ["file", f"{report.path} ({report.path.stat().st_size / 1e6:.1f} MB)"],
        ["nodes", nodes],
        ["operators", ", ".join(f"{count} {name}" for name, count in report.operators.items())],
        ["parameters", f"{manifest.parameters:,}"],
        ["MACs per image", "not counted" if manifest.macs is None else f"{manifest.macs / 1e6:,.1f} M"],
        *(["input", str(spec)] for spec in manifest.inputs),
        *(["output", str(spec)] for spec in manifest.outputs),
        *([["NMS inside", str(manifest.nms)]] if manifest.nms else []),
        ["preprocessing", str(manifest.preprocessing or "none: give arrays (.npz)")],
        ["weights", " ".join(filter(None, [manifest.weights.source, manifest.weights.name]))],
        [
            "against PyTorch",
            f"max relative error {last.relative:.1e}, SQNR {last.sqnr_db:.0f} dB, {last.samples} images",
        ],
        ["seconds", ", ".join(f"{step} {seconds:.1f}" for step, seconds in report.steps.items())],
    ]
    console.table([manifest.model, "exported and equal to PyTorch"], rows)


def _document(report: ExportReport) -> dict[str, Any]:
    return {
        "file": str(report.path),
        "bytes": report.path.stat().st_size,
        "nodes": report.nodes,
        "operators": report.operators,
        "parity": {step: comparison.to_dict() for step, comparison in report.parity.items()},
        "seconds": report.steps,
        "manifest": report.manifest.to_dict(),
    }
