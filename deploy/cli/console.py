"""What a command says: results to stdout, everything else to stderr; under ``--json`` one document on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from deploy.errors import DeployError, MachineError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Progress = Callable[[int, int | None], None]  # done, total where it is known


class Console:
    """Prints for a person or, with ``as_json``, for a program."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._stdout = sys.stdout  # stays ours where what else is printed goes to stderr (see others_to_stderr)

    def note(self, text: str) -> None:
        """A step or a fact a person wants while waiting."""
        if not self.as_json:
            _err(text)

    def warn(self, text: str) -> None:
        """Something the user must know; also under ``--json``."""
        _err(f"warning: {text}")

    def error(self, error: DeployError, exit_code: int | None = None) -> None:
        """One line (and details, where there are any) on stderr; under ``--json`` the document on stdout too."""
        _err("\n".join([f"error: {error.headline}", *(f"  {line}" for line in error.details)]))
        if self.as_json:
            code = error.exit_code if exit_code is None else exit_code
            self.document({**error.as_dict(), "exit_code": code})

    def others_to_stderr(self) -> contextlib.AbstractContextManager[Any]:
        """Under ``--json`` stdout is for the document alone, whatever a user's network or a package prints."""
        return contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()

    def document(self, document: Mapping[str, Any] | Sequence[Any]) -> None:
        """The one JSON document of ``--json``."""
        text = json.dumps(document, indent=2, ensure_ascii=False)
        # Bytes of file names that are no UTF-8: JSON spells such a character as an escape.
        text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text)
        _out(text, self._stdout)

    def text(self, text: str) -> None:
        """A line of the result, for a person."""
        if not self.as_json:
            _out(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """A table of the result, for a person; columns of numbers are aligned to the right."""
        if self.as_json:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for index, column in enumerate(columns):
            cells = [row[index] for row in rows if row[index] != ""]
            numbers = all(map(_is_number, cells))
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        # A pipe or a file is not 80 columns wide, unless COLUMNS says so.
        terminal, drawn = sys.stdout.isatty(), io.StringIO()
        width = None if terminal or "COLUMNS" in os.environ else 200
        RichConsole(file=drawn, force_terminal=terminal, width=width, highlight=False, markup=False).print(table)
        _out("\n".join(line.rstrip() for line in drawn.getvalue().rstrip("\n").splitlines()))

    @contextlib.contextmanager
    def bars(self) -> Iterator[Bars]:
        """Progress bars on stderr; they draw nothing where stderr is not a terminal."""
        if self.as_json or not sys.stderr.isatty():
            yield Bars(None)
            return
        from rich.console import Console as RichConsole
        from rich.progress import Progress as RichProgress

        with RichProgress(console=RichConsole(stderr=True), transient=True) as drawn:
            yield Bars(drawn)


class Bars:
    """Counters, and phases that nest and overlap as TensorRT's do, indented under their parent."""

    def __init__(self, drawn: RichProgress | None) -> None:
        self._drawn = drawn
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def counter(self, label: str) -> Progress:
        """A callback ``(done, total)`` that draws a bar, gone when all is done."""

        def update(done: int, total: int | None) -> None:
            if label not in self._tasks:
                self.start(label, None, total)
            self.step(label, done)
            if done == total:
                self.finish(label)

        return update

    def start(self, phase: str, parent: str | None, steps: int | None) -> None:
        if self._drawn is not None:
            depth = self._tasks[parent][1] + 1 if parent in self._tasks else 0
            self._tasks[phase] = (self._drawn.add_task("  " * depth + phase, total=steps), depth)

    def step(self, phase: str, step: int) -> None:
        if self._drawn is not None and phase in self._tasks:
            self._drawn.update(self._tasks[phase][0], completed=step)

    def finish(self, phase: str) -> None:
        if self._drawn is not None and phase in self._tasks:
            self._drawn.remove_task(self._tasks.pop(phase)[0])


class BuildReporter:
    """Where a build says what it is doing (:class:`deploy.workflows.request.Reporter`)."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self.note, self.warn = console.note, console.warn
        self.counter, self.phases = bars.counter, bars


def _out(text: str, stream: TextIO | None = None) -> None:
    """Print to stdout at once: a full disk or a reader that has gone must show here, not when Python exits."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        _discard(stream or sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise MachineError("cannot write to stdout", got=(error.strerror or str(error)).lower()) from error


def _err(text: str) -> None:
    """Print to stderr; work goes on where nobody can read it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _discard(stream: TextIO) -> None:
    """What is still in the buffer would fail again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or str(cell).removeprefix("-")[:1].isdigit()
