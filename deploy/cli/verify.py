"""Graphs, engines and models against a reference, number by number; exit code 1 where one is too far off.

  python -m deploy verify mobilenet_v3_large mobilenet_v3_large.onnx --weights random
  python -m deploy verify net.onnx net.fp16.onnx net.int8.onnx net.int8.plan --data photos/
  python -m deploy verify net.onnx net.int8.onnx --data photos/ --layers --report net.int8.html

FP32 has to keep a relative error of 1e-4; FP16 an SQNR of 40 dB, 2e-2 and a cosine of 0.999; INT8 an SQNR of 10 dB.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.console import Console
from deploy.cli.layers import print_layers
from deploy.cli.options import add_network_options, network_options
from deploy.cli.rebuild import add_rebuild, rebuild_engines
from deploy.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from deploy.workflows.verify import VerifyReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="an .onnx graph, a .plan engine, or a model's name")
    parser.add_argument("others", nargs="+", metavar="OTHER", help="what to compare with it, likewise")
    parser.add_argument("--data", type=Path, metavar="DIR|FILE.npz", help="real images (default: 16 synthetic ones)")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="at most this many of them (default 256)")
    parser.add_argument(
        "--tolerance", type=float, metavar="X", help="largest allowed error relative to the largest output"
    )
    parser.add_argument("--layers", action="store_true", help="what each layer of an FP16 or INT8 graph loses")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="the same with plots, as a page for browsers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where graphs run")
    add_rebuild(parser)
    add_network_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.workflows.verify import VerifyRequest, verify

    _check(args)
    rebuild_engines(args, [args.reference, *args.others], console)
    request = VerifyRequest(
        reference=args.reference,
        others=tuple(args.others),
        data=args.data,
        images=args.images,
        tolerance=args.tolerance,
        layers=args.layers,
        device=args.device,
        network=network_options(args),
    )
    with console.bars() as bars:
        report = verify(request, console.warn, bars.counter("comparing"), bars.counter("layers"))
    _print(report, console)
    if args.report is not None:
        _write(args.report, report, console)
    return 0 if report.passed else CheckFailed.exit_code


def _check(args: argparse.Namespace) -> None:
    from deploy.artifacts import check_writable

    if args.images < 1:
        raise InputError("--images is a count", got=args.images, expected="1 or more")
    if args.tolerance is not None and not args.tolerance > 0:
        raise InputError("a tolerance is a relative error", got=args.tolerance, expected="more than 0, such as 1e-4")
    if args.report is not None:
        if not args.layers:
            raise InputError("--report is the page of --layers", got="no --layers", fix="Add --layers.")
        check_writable(args.report)
        compared = [Path(name) for name in (args.reference, *args.others)]
        if args.report.exists() and any(path.exists() and args.report.samefile(path) for path in compared):
            fix = "Give another --report FILE.html."
            raise InputError(f"{args.report} is compared: it will not be overwritten", fix=fix)


def _write(path: Path, report: VerifyReport, console: Console) -> None:
    from deploy.artifacts import write_bytes
    from deploy.parity.report import render

    write_bytes(path, render(report.to_dict()).encode())
    console.note(f"wrote {path}")


def _print(report: VerifyReport, console: Console) -> None:
    if console.as_json:
        console.document(report.to_dict())
        return
    console.text(f"reference {report.reference}: {report.reference_execution}\ninputs: {report.inputs}")
    rows = [
        [
            verdict.name if len(verdict.outputs) == 1 else f"{verdict.name} {output}",
            str(verdict.precision),
            f"{comparison.max_abs:.2e}",
            f"{comparison.mean_abs:.2e}",
            f"{comparison.relative:.1e}",
            f"{comparison.cosine:.5f}",
            f"{comparison.sqnr_db:.1f}",
            f"{100 * comparison.top1:.1f}",
            "passed" if verdict.passed else "FAILED",
        ]
        for verdict in report.verdicts
        for output, comparison in verdict.outputs.items()
    ]
    columns = ["", "", "max |error|", "mean |error|", "relative", "cosine", "SQNR dB", "top-1 same %", ""]
    if rows:
        console.table(columns, rows)
    for verdict in report.verdicts:
        console.text(f"{verdict.name}: {verdict.execution}")
        if verdict.detections:
            console.text(f"{verdict.name} {'passed' if verdict.passed else 'FAILED'}: {verdict.detections}")
        for reason in verdict.failures:
            console.text(f"{verdict.name} failed: {reason}")
    if report.layers:
        print_layers(report.layers, console)
