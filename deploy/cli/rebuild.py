"""``--rebuild`` of the verbs that open engines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from deploy.cli.console import BuildReporter, Console


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="an engine that does not fit this machine is built again from its graph, and replaced",
    )


def rebuild_engines(args: argparse.Namespace, names: Iterable[str | Path], console: Console) -> None:
    """Build those of ``names`` again that are engines and do not fit, where that was asked for.

    Raises as :func:`deploy.workflows.rebuild.rebuild_unfit`.
    """
    plans = [path for path in map(Path, names) if path.suffix == ".plan"]
    if not args.rebuild or not plans or args.device == "cpu":
        return
    from deploy.workflows.rebuild import rebuild_unfit

    with console.bars() as bars:
        for plan in dict.fromkeys(plans):
            rebuild_unfit(plan, BuildReporter(console, bars))
