"""Does a runner agree with itself? The same rows in one batch, rows alone and together, several threads and one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.parity.compare import Accumulator, Comparison
from deploy.parity.limits import Limits
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows
from deploy.specs import Precision

Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]

# Kernels may add in another order at another place in a batch or in a batch of another size, and INT8 then rounds a
# value that lies between two steps the other way. A wrong row, or one that was not computed, is near 0 dB.
LIMITS = {
    Precision.FP32: Limits(relative=1e-4),
    Precision.FP16: Limits(sqnr_db=40.0),
    Precision.INT8: Limits(sqnr_db=20.0),
}
THREADS = 4
_SECONDS = 1.0


def consistency(runner: Runner, feeds: Mapping[int, Feeds], precision: Precision) -> dict[str, dict[str, Any]]:
    """Check → its figures: ``same_bits``, ``sqnr_db`` and ``relative`` of the worst output, and ``failures``.

    ``feeds`` are by batch size; rows are looked at in the second largest.
    """
    rows = sorted(feeds)[-2] if len(feeds) > 1 else max(feeds)
    outputs = {batch: infer_rows(runner, fed) for batch, fed in feeds.items()}
    checks = {
        "repeat": [(outputs[batch], infer_rows(runner, fed)) for batch, fed in feeds.items()],
        "same rows": _same_rows(runner, feeds[rows], rows),
        "alone": _alone(runner, feeds[rows], outputs[rows], rows),
        "threads": _threads(runner, feeds, outputs),
    }
    # A repeat runs the same kernels on the same numbers in the same order.
    exact = {"repeat", "threads"}
    return {name: judged(pairs, LIMITS[precision], exact=name in exact) for name, pairs in checks.items()}


def judged(pairs: Iterable[tuple[Outputs, Outputs]], limits: Limits, *, exact: bool) -> dict[str, Any]:
    """Outputs as they should be and as they are, one figure for all."""
    try:
        compared = _compared(pairs)
    except InputError as error:  # NaN where a number is to be repeated, or another shape
        return {"same_bits": False, "sqnr_db": None, "relative": None, "failures": [error.headline]}
    same_bits = all(comparison.finite and comparison.max_abs == 0 for comparison in compared.values())
    failures = [f"{name}: {reason}" for name, each in compared.items() for reason in limits.distances(each)]
    if exact and not same_bits and not failures:
        failures = ["other bits"]
    worst = min(compared.values(), key=_quality).to_dict()
    return {"same_bits": same_bits, **{key: worst[key] for key in ("sqnr_db", "relative")}, "failures": failures}


def _compared(pairs: Iterable[tuple[Outputs, Outputs]]) -> dict[str, Comparison]:
    accumulators: dict[str, Accumulator] = {}
    for want, have in pairs:
        for name in want:
            accumulators.setdefault(name, Accumulator()).update(want[name], have[name])
    return {name: accumulator.result() for name, accumulator in accumulators.items()}


def _quality(comparison: Comparison) -> float:
    return comparison.sqnr_db if comparison.finite else -np.inf


def _same_rows(runner: Runner, feeds: Feeds, rows: int) -> list[tuple[Outputs, Outputs]]:
    """A batch of one row many times against that row."""
    repeated = {name: np.repeat(array[:1], rows, axis=0) for name, array in feeds.items()}
    outputs = infer_rows(runner, repeated)
    return [({name: np.repeat(value[:1], len(value), axis=0) for name, value in outputs.items()}, outputs)]


def _alone(runner: Runner, feeds: Feeds, together: Outputs, rows: int) -> list[tuple[Outputs, Outputs]]:
    """Each row by itself against the batch."""
    single = [infer_rows(runner, {name: array[row : row + 1] for name, array in feeds.items()}) for row in range(rows)]
    return [(together, {name: np.concatenate([each[name] for each in single]) for name in together})]


def _threads(
    runner: Runner, feeds: Mapping[int, Feeds], outputs: Mapping[int, Outputs]
) -> list[tuple[Outputs, Outputs]]:
    """Requests of several threads at once against those of one: the first of each, and all that differ."""
    until, batches = perf_counter() + _SECONDS, sorted(feeds)[:2]

    def query(first: int) -> list[tuple[Outputs, Outputs]]:
        found: list[tuple[Outputs, Outputs]] = []
        index = first
        while index - first < len(batches) or perf_counter() < until:
            batch = batches[index % len(batches)]
            want, have = outputs[batch], infer_rows(runner, feeds[batch])
            if not found or not all(np.array_equal(want[name], have[name]) for name in want):
                found.append((want, have))
            index += 1
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        return [pair for pairs in pool.map(query, range(THREADS)) for pair in pairs]
