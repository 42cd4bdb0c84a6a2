"""Errors of this package: what happened, what was got, what was expected, what to do next, as attributes."""

from __future__ import annotations

from collections.abc import Sequence


class ModelError(ValueError):
    """A model or its weights cannot be had as asked for. ``details`` are further lines of a longer report."""

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
        super().__init__(self._text())

    def _text(self) -> str:
        facts = [f"got {self.got}"] if self.got is not None else []
        facts += [f"expected {self.expected}"] if self.expected is not None else []
        line = f"{self.what} ({'; '.join(facts)})" if facts else self.what
        line = f"{line}. {self.fix}" if self.fix else line
        return "\n".join([line, *self.details])


class UnknownModel(ModelError):
    """No model has this name; ``suggestions`` are the closest ones, best first."""

    def __init__(self, name: str, suggestions: Sequence[str]) -> None:
        self.suggestions = tuple(suggestions)
        hint = f"Did you mean {' or '.join(suggestions)}? " if suggestions else ""
        super().__init__(f"there is no model named '{name}'", fix=f"{hint}All names: python export.py --list")


class WeightsError(ModelError):
    """A checkpoint is missing, damaged, unsafe to read, or belongs to another model."""


class WeightsUnavailable(WeightsError):
    """An official checkpoint is neither in the cache nor can it be downloaded from here."""
