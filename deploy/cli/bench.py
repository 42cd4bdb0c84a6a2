"""Latency, throughput, memory and power of graphs and engines on this machine, side by side.

  python -m deploy bench mobilenet_v3_small.onnx --batch 1,8
  python -m deploy bench net.fp32.plan net.fp16.plan net.int8.plan --batch 1,8,32 --plot net.html
  python -m deploy bench net.int8.plan --concurrency 4 --json

The files are measured in turns, so that clocks and noise are the same for all. The words are trtexec's:

  Throughput        queries a second: their number by the Total Host Walltime, the time of all turns
  Latency           H2D Latency + GPU Compute Time + D2H Latency of one query: copy in, compute, copy back
  GPU Compute Time  the kernels alone, by CUDA events
  Enqueue Time      what the host needs to queue the kernels
  Host Latency      (not in trtexec) by the host's clock, arrays to arrays: all that a caller waits for

On a CPU there is the Host Latency alone. p50 is the median.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.console import Console
from deploy.cli.rebuild import add_rebuild, rebuild_engines
from deploy.cli.timings import print_timings
from deploy.errors import InputError

if TYPE_CHECKING:
    from deploy.bench.turns import Settings
    from deploy.workflows.bench import BenchReport

_PLOTS = (".svg", ".html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".onnx graphs or .plan engines")
    parser.add_argument(
        "--batch", type=_batches, metavar="N[,N…]", help="images per query (default: the file's own, or 1)"
    )
    parser.add_argument("--duration-s", type=float, default=3, metavar="S", help="measure each so long (default 3)")
    parser.add_argument("--warm-up-ms", type=float, default=200, metavar="MS", help="after so long (default 200)")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="at least so many queries (default 10)")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=1,
        metavar="N",
        help="clients, each of which sends its next query when the last one is answered (default 1)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where graphs run")
    add_rebuild(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of one operator (default: all cores)")
    parser.add_argument("--data", type=Path, metavar="DIR|FILE.npz", help="real inputs (default: made-up ones)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg|FILE.html", help="draw latencies and throughput")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write what --json prints")


def run(args: argparse.Namespace, console: Console) -> int:
    settings = _settings(args)
    _check_outputs(args)
    rebuild_engines(args, args.files, console)
    from deploy.workflows.bench import BenchRequest, bench

    request = BenchRequest(
        files=tuple(args.files),
        batches=args.batch,
        settings=settings,
        device=args.device,
        threads=args.threads,
        data=args.data,
    )
    with console.bars() as bars:
        report = bench(request, console.warn, bars.counter("measuring"))
    _write(args, report, console)  # before printing: the reader of our output may go
    if console.as_json:
        console.document(report.to_dict())
    print_timings(report, console)
    for text in report.warnings:
        console.warn(text)
    return 0


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected numbers of images: 8, or 1,8,32")
    return batches


def _settings(args: argparse.Namespace) -> Settings:
    # "not more" and not "less": nan is refused too.
    if not 0 < args.duration_s < float("inf"):
        raise InputError("--duration-s is a time", got=args.duration_s, expected="more than 0 seconds")
    if not 0 <= args.warm_up_ms < float("inf"):
        raise InputError("--warm-up-ms is a time", got=args.warm_up_ms, expected="0 milliseconds or more")
    for name in ("iterations", "concurrency", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is a count", got=value, expected="1 or more")
    from deploy.bench.turns import Settings

    return Settings(args.duration_s, args.warm_up_ms, args.iterations, args.concurrency)


def _check_outputs(args: argparse.Namespace) -> None:
    """Find out before measuring what cannot be written."""
    from deploy.artifacts import check_writable

    if args.plot is not None and args.plot.suffix not in _PLOTS:
        raise InputError(f"cannot draw {args.plot}", got=args.plot.suffix or "no suffix", expected=" or ".join(_PLOTS))
    for path in filter(None, (args.plot, args.output)):
        if path.exists() and any(file.exists() and path.samefile(file) for file in args.files):
            raise InputError(f"{path} is measured: it will not be overwritten", fix="Give another name.")
        check_writable(path)


def _write(args: argparse.Namespace, report: BenchReport, console: Console) -> None:
    from deploy.artifacts import write_bytes

    if args.output is not None:
        import json

        write_bytes(args.output, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
        console.note(f"wrote {args.output}")
    if args.plot is not None:
        from deploy.bench.plot import draw

        write_bytes(args.plot, draw(report.to_dict(), page=args.plot.suffix == ".html").encode())
        console.note(f"wrote {args.plot}")
