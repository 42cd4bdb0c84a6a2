"""How far one set of outputs lies from a reference, accumulated batch by batch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.runtime.base import Array

# Below this spread the reference says the same whatever it sees, and agreement with it proves nothing.
SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Distances of an output from the reference's, over all samples.

    Attributes:
        samples: rows compared.
        max_abs, mean_abs: of the element-wise absolute error, in the output's unit.
        relative: ``max_abs`` over the largest absolute value of the reference.
        cosine: the smallest cosine similarity of any row; of rows of one number, that of all of them.
        sqnr_db: signal power over error power, in dB; infinite for equal outputs.
        top1: share of rows whose largest element is the same one; None where a row is no list of scores.
        spread: standard deviation over samples, averaged, relative to the reference's largest absolute value.
        finite: no NaN or infinity in the output that was judged.
        agreement: share of equal elements, for integers and truth values, whose distances mean nothing; else None.
    """

    samples: int
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    sqnr_db: float
    top1: float | None
    spread: float
    finite: bool
    agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: infinities and NaN, which JSON lacks, become None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


class Accumulator:
    """Compares batch after batch in constant memory."""

    def __init__(self) -> None:
        self._rows = self._elements = self._same_top1 = self._equal = 0
        self._discrete = self._scores = False
        self._max_abs = self._sum_abs = self._error_power = self._signal_power = self._largest = 0.0
        self._cosine, self._finite = 1.0, True
        self._column = np.zeros(3)  # of rows of one number: products with the reference's, and both sums of squares
        self._sum: Array | float = 0.0
        self._sum_squares: Array | float = 0.0

    def update(self, reference: Array, other: Array) -> None:
        """Add one batch ``[rows, ...]``, or a number.

        Raises:
            InputError: the shapes differ, or the reference itself is not finite.
        """
        if reference.shape != other.shape:
            raise InputError("outputs of different shapes", got=list(other.shape), expected=list(reference.shape))
        if not reference.size:
            return
        self._discrete = reference.dtype.kind in "biu"
        self._scores = reference.ndim == 2 and reference.shape[1] > 1
        rows = len(np.atleast_1d(reference))
        want, have = (array.reshape(rows, -1).astype(np.float64) for array in (reference, other))
        if not np.isfinite(want).all():
            raise InputError("the reference itself gives NaN or infinity: nothing can be compared with it")
        self._finite = self._finite and bool(np.isfinite(have).all())
        self._rows += len(want)
        self._elements += want.size
        self._add_reference(want)
        if self._finite:
            self._add_errors(want, have)

    def _add_reference(self, want: Array) -> None:
        self._largest = max(self._largest, float(np.abs(want).max()))
        self._sum = _added(self._sum, want.sum(axis=0))
        self._sum_squares = _added(self._sum_squares, (want**2).sum(axis=0))
        self._signal_power += float((want**2).sum())

    def _add_errors(self, want: Array, have: Array) -> None:
        error = np.abs(have - want)
        self._max_abs = max(self._max_abs, float(error.max()))
        self._sum_abs += float(error.sum())
        self._error_power += float((error**2).sum())
        self._same_top1 += int((want.argmax(axis=1) == have.argmax(axis=1)).sum())
        self._equal += int((error == 0).sum())
        if want.shape[1] == 1:  # a single number has no direction: all of them together have one, see _column_cosine
            self._column = self._column + np.array([(want * have).sum(), (want**2).sum(), (have**2).sum()])
            return
        norms = np.linalg.norm(want, axis=1) * np.linalg.norm(have, axis=1)
        cosine = (want * have).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
        cosine[error.max(axis=1) == 0] = 1.0  # a row of zeros has no direction, but equals another
        self._cosine = min(self._cosine, float(cosine.min()))

    def result(self) -> Comparison:
        """The comparison so far.

        Raises:
            InputError: nothing was compared yet.
        """
        if not self._rows:
            raise InputError("nothing to compare: no samples")
        if not self._finite:
            nothing = math.nan
            return Comparison(
                self._rows, math.inf, math.inf, math.inf, nothing, -math.inf, 0.0, self._spread(), finite=False
            )
        return Comparison(
            samples=self._rows,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._elements,
            relative=self._max_abs / self._largest if self._largest else math.inf,
            cosine=min(self._cosine, self._column_cosine()),
            sqnr_db=decibel(self._signal_power, self._error_power),
            top1=self._same_top1 / self._rows if self._scores else None,
            spread=self._spread(),
            finite=True,
            agreement=self._equal / self._elements if self._discrete else None,
        )

    def _column_cosine(self) -> float:
        product, want, have = self._column
        return float(product / math.sqrt(want * have)) if self._max_abs and want * have else 1.0

    def _spread(self) -> float:
        mean = self._sum / self._rows
        variance = np.maximum(self._sum_squares / self._rows - mean**2, 0.0)
        return float(np.sqrt(variance).mean() / self._largest) if self._largest else 0.0


def _added(total: Array | float, values: Array) -> Array | float:
    """NaN, so that nothing is said about the spread, where rows are of another length than before."""
    return total + values if np.shape(total) in ((), values.shape) else math.nan


def decibel(signal: float, error: float) -> float:
    """SQNR in dB of two powers."""
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf


def compare(reference: Array, other: Array) -> Comparison:
    """Compare two arrays of the same shape ``[samples, ...]``."""
    accumulator = Accumulator()
    accumulator.update(reference, other)
    return accumulator.result()
