"""Top-1 and top-5 accuracy on labelled images, one folder per class in the order of the classes.

python -m deploy eval net.onnx net.int8.onnx --data heldout/
python -m deploy eval mobilenet_v3_small --weights digits.safetensors --num-classes 10 --data heldout/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.cli.console import Console
from deploy.cli.options import add_network_options, network_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="FILE|NAME", help=".onnx graphs, .plan engines, or models' names")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="DIR/<class>/*.jpg")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images per batch (default 32)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where graphs run")
    add_network_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.workflows.evaluate import evaluate
    from deploy.workflows.subjects import check_openable

    network = network_options(args)
    for what in args.what:
        check_openable(what, args.device)
    results = []
    with console.bars() as bars:
        for what in args.what:
            results.append(
                evaluate(what, args.data, args.batch_size, args.device, network, console.warn, bars.counter(what))
            )
    if console.as_json:
        console.document([result.to_dict() for result in results])
        return 0
    rows = [
        [
            result.name,
            str(result.precision),
            f"{100 * result.top1:.2f}",
            f"{100 * result.interval[0]:.2f} to {100 * result.interval[1]:.2f}",
            f"{100 * result.top5:.2f}",
            result.images,
            f"{result.images_per_second:.0f}",
        ]
        for result in results
    ]
    console.table(["", "", "top-1 %", "95 % interval", "top-5 %", "images", "images/s"], rows)
    for result in results:
        console.text(f"{result.name}: {result.execution}")
    return 0
