"""Top-1 and top-5 accuracy on labelled images, one folder per class in the order of the classes.

python -m deploy eval net.onnx net.int8.onnx --data heldout/
python -m deploy eval mobilenet_v3_small --weights digits.safetensors --num-classes 10 --data heldout/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.console import Console
from deploy.cli.options import add_network_options, network_options
from deploy.cli.rebuild import add_rebuild, rebuild_engines

if TYPE_CHECKING:
    from deploy.parity.paired import PairedDifference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="FILE|NAME", help=".onnx graphs, .plan engines, or models' names")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="DIR/<class>/*.jpg")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images per batch (default 32)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where graphs run")
    add_rebuild(parser)
    add_network_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.workflows.evaluate import evaluate
    from deploy.workflows.subjects import check_openable

    network = network_options(args)
    rebuild_engines(args, args.what, console)
    for what in args.what:
        check_openable(what, args.device)
    results = []
    with console.bars() as bars:
        for what in args.what:
            results.append(
                evaluate(what, args.data, args.batch_size, args.device, network, console.warn, bars.counter(what))
            )
    differences = [result.against(results[0]) for result in results]
    if console.as_json:
        pairs = zip(results, differences)
        console.document([{**result.to_dict(), "lost": _lost(difference)} for result, difference in pairs])
        return 0
    several = len(results) > 1
    rows = [
        [
            result.name,
            str(result.precision),
            f"{100 * result.top1:.2f}",
            f"{100 * result.interval[0]:.2f} to {100 * result.interval[1]:.2f}",
            f"{100 * result.top5:.2f}",
            result.images,
            f"{result.images_per_second:.0f}",
            *([_lost_text(difference) if result is not results[0] else ""] if several else []),
        ]
        for result, difference in zip(results, differences)
    ]
    lost = ["points lost to the first"] if several else []
    console.table(["", "", "top-1 %", "95 % interval", "top-5 %", "images", "images/s", *lost], rows)
    for result in results:
        console.text(f"{result.name}: {result.execution}")
    return 0


def _lost(difference: PairedDifference | None) -> dict[str, float] | None:
    if difference is None:
        return None
    low, high = difference.interval()
    return {"points": difference.drop, "low": low, "high": high}


def _lost_text(difference: PairedDifference | None) -> str:
    """The same images are told right or wrong by both: their difference is surer than either share."""
    if difference is None:
        return "other images"
    low, high = difference.interval()
    return f"{difference.drop:.2f} ({low:.2f} to {high:.2f})"
