"""Errors a user can act on. Each class is one exit code of the command line (README.md)."""

from __future__ import annotations

from collections.abc import Sequence


class DeployError(Exception):
    """What happened, what was got, what was expected, what to type next, in that order on one line.

    ``details`` are further lines for reports that do not fit one line (missing checkpoint keys, parser errors).
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        self.what = what
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        self.details = tuple(details)
        super().__init__(self.headline)

    @property
    def headline(self) -> str:
        """The error on one line."""
        facts = [f"got {self.got}"] if self.got is not None else []
        facts += [f"expected {self.expected}"] if self.expected is not None else []
        line = f"{self.what} ({'; '.join(facts)})" if facts else self.what
        line = f"{line}. {self.fix}" if self.fix else line
        return " ".join(line.split())

    def as_dict(self) -> dict[str, object]:
        """The error as JSON has it under ``--json``."""
        return {
            "error": self.what,
            "got": self.got,
            "expected": self.expected,
            "fix": self.fix,
            "details": list(self.details),
            "exit_code": self.exit_code,
        }


class InputError(DeployError):
    """Wrong usage or bad input: the user can change what they gave."""

    exit_code = 2


class CheckFailed(DeployError):
    """A check did its work and the answer is no: parity, accuracy budget."""

    exit_code = 1


class MachineError(DeployError):
    """This machine lacks what the command needs: a GPU, a package, another TensorRT, disk space."""

    exit_code = 3
