"""One file under load for minutes, from several threads at changing batch sizes: the child process of the soak step.

Every answer is compared with the one that the same input gave before the load, and memory is watched. Prints one JSON
document. Exit code as deploy.errors has it: 1 where rows were wrong, or memory grew beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from _acceptance_memory import watching
from _acceptance_open import open_file

from deploy.errors import DeployError
from deploy.parity.inputs import synthetic_batches
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows

# The last is more than most profiles take at once: it has to be cut.
BATCHES = (1, 2, 7, 8, 32, 45)
# Of the output's largest absolute value: far above rounding, far below another row's answer.
_WRONG = 0.05
_WARM_UPS = 2  # of each request in each thread

Feeds = Mapping[str, Array]


@dataclass
class Count:
    """What one thread met."""

    requests: int = 0
    rows: int = 0
    wrong: int = 0
    other_bits: int = 0


def main() -> None:
    args = _arguments()
    try:
        document = soak(args)
    except DeployError as error:
        print(json.dumps(error.as_dict()))
        sys.exit(error.exit_code)
    print(json.dumps(document))
    sys.exit(1 if document["failures"] else 0)


def soak(args: argparse.Namespace) -> dict[str, Any]:
    runner, preprocessing = open_file(args.file, args.device)
    with runner:
        feeds = list(synthetic_batches(runner.inputs, preprocessing, args.batches))
        expected = [infer_rows(runner, feed) for feed in feeds]
        warm_up(runner, feeds, args.threads)
        with watching(args.seconds) as memory, ThreadPoolExecutor(args.threads) as pool:
            until = perf_counter() + args.seconds
            work = [pool.submit(load, runner, feeds, expected, until, seed) for seed in range(args.threads)]
            counts = [each.result() for each in work]
        execution = runner.execution
    verdict = memory.verdict()
    total = {name: sum(getattr(count, name) for count in counts) for name in vars(Count())}
    wrong = [f"{total['wrong']} of {total['rows']} rows were wrong"] if total["wrong"] else []
    return {
        "execution": execution,
        "seconds": args.seconds,
        "threads": args.threads,
        **total,
        **verdict,
        "failures": [*wrong, *verdict["failures"]],
    }


def warm_up(runner: Runner, feeds: list[Feeds], threads: int) -> None:
    """Every request in all threads at once, the largest first: allocators keep what that takes."""
    requests = [each for each in sorted(feeds, key=rows_of, reverse=True) for _ in range(_WARM_UPS * threads)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(infer_rows, runner, each) for each in requests]:
            done.result()


def rows_of(feeds: Feeds) -> int:
    return max(len(value) for value in feeds.values())


def load(runner: Runner, feeds: list[Feeds], expected: list[dict[str, Array]], until: float, seed: int) -> Count:
    """Requests of random size, one after the other, until the time is up."""
    random, count = np.random.default_rng(seed), Count()
    while perf_counter() < until or not count.requests:
        which = int(random.integers(len(feeds)))
        outputs = infer_rows(runner, feeds[which])
        count.requests += 1
        count.rows += rows_of(feeds[which])
        for name, want in expected[which].items():
            count.wrong += wrong_rows(want, outputs[name])
            count.other_bits += not np.array_equal(want, outputs[name], equal_nan=True)
    return count


def wrong_rows(want: Array, have: Array) -> int:
    """Rows of ``have`` that are another answer, not another rounding; NaN is wrong where it was none."""
    if have.shape != want.shape:
        return len(want)
    largest = float(np.abs(want).max(initial=0)) or 1.0
    close = np.isclose(have.astype(np.float64), want.astype(np.float64), rtol=0, atol=_WRONG * largest, equal_nan=True)
    return int((~close.reshape(len(want), -1).all(axis=1)).sum())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help=".onnx or .plan")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
