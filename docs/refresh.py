"""Run the commands in the documentation again and put what they print in place of what they printed.

    python docs/refresh.py README.md docs/*.md

A block that starts with ``console`` holds commands behind ``$ ``; everything else in it is output, of both streams.
Between the comments ``rules`` and ``/rules`` stands the table of INT8 placement. Run it in the repository's folder
after ``make demo``, which makes the files that the commands read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from deploy.graph.rules import markdown

RULES = re.compile(r"(<!-- rules:.*? -->\n).*?(<!-- /rules -->)", re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WIDTH = "118"


def refresh(path: Path) -> None:
    """Rewrite the console blocks and the rules of one file."""
    text = RULES.sub(lambda match: f"{match[1]}\n{markdown()}\n{match[2]}", path.read_text(encoding="utf-8"))
    path.write_text(BLOCK.sub(lambda match: rerun(match.group(1)), text), encoding="utf-8")


def rerun(block: str) -> str:
    """The block with fresh output. A command may go on over lines that end in a backslash."""
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)\n", block, re.MULTILINE)
    return "```console\n" + "".join(f"$ {command}\n{run(command)}" for command in commands) + "```"


def run(command: str) -> str:
    """What a command prints, with its exit code where that is not 0."""
    print(f"$ {command}", flush=True)
    folder = Path(sys.executable).parent
    environment = {**os.environ, "COLUMNS": WIDTH, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(  # noqa: S602 - the commands are the documentation's own
        command, shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    if done.returncode:
        lines.append(f"(exit code {done.returncode})")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        refresh(Path(name))
