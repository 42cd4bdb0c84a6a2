"""What this machine can do, and the command that adds what it cannot.

python -m deploy doctor
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from deploy.cli.console import Console

_MARKS = {"ok": "✓", "missing": "–", "problem": "✗"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``doctor`` takes no arguments of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.workflows.doctor import examine

    with console.bars() as bars:
        findings = examine(bars.counter("looking around"))
    if console.as_json:
        console.document([asdict(finding) for finding in findings])
        return 0
    for group in dict.fromkeys(finding.group for finding in findings):
        rows = [[_MARKS[f.state], f.name, f.found, f.fix or ""] for f in findings if f.group == group]
        console.table(["", group, "found", "what to do"], rows)
    return 0
