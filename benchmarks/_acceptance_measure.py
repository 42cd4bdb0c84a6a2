"""One file, or one PyTorch model, run and judged: the child process behind the acceptance run's measuring steps.

Prints one JSON document: parity with the reference (and with the twin) at each batch size, whether it agrees with
itself, and milliseconds per batch. Exit code as deploy.errors has it: 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from _acceptance_consistency import consistency
from _acceptance_open import open_file, open_pytorch

from deploy.errors import DeployError
from deploy.parity.compare import Accumulator, Comparison
from deploy.parity.inputs import synthetic_batches
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows
from deploy.specs import Precision

BATCHES = (1, 7, 32)
TIMED = (1, 32)
_MOST_RUNS, _WARM_UP_S, _MOST_SECONDS = 200, 0.2, 0.5

Outputs = Mapping[str, Array]
# Of one output: by batch size, and ``all`` together.
Parity = dict[str, Comparison]


def main() -> None:
    args = _arguments()
    try:
        document = _measure(args)
    except DeployError as error:
        print(json.dumps(error.as_dict()))
        sys.exit(error.exit_code)
    print(json.dumps(document))
    sys.exit(1 if document["failures"] else 0)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    precision = Precision(args.precision)
    runner, preprocessing = _open(args)
    with runner:
        feeds = dict(zip(BATCHES, synthetic_batches(runner.inputs, preprocessing, BATCHES)))
        outputs = {batch: infer_rows(runner, feeds[batch]) for batch in BATCHES}
        agrees = consistency(runner, feeds, precision)
        latency = {batch: _milliseconds(runner, feeds[batch]) for batch in TIMED}
    judge = next((path for path in (args.reference, args.fallback) if path and path.exists()), None)
    against = {what: _against(path, outputs) for what, path in (("reference", judge), ("twin", args.twin))}
    if args.save:
        # After the comparison: what becomes the reference is not to be compared with itself.
        _save(args.save, outputs)
    return {
        "execution": runner.execution,
        "backend": runner.backend,
        "precision": args.precision,
        **{what: _plain(compared) for what, compared in against.items()},
        "consistency": agrees,
        "latency_ms": {str(batch): round(value, 3) for batch, value in latency.items()},
        "failures": [*_missed(against["reference"], precision), *_disagreements(agrees)],
    }


def _open(args: argparse.Namespace) -> tuple[Runner, Any]:
    return open_pytorch(args.what, args.image_size) if args.pytorch else open_file(Path(args.what), args.device)


def _missed(reference: dict[str, Parity] | None, precision: Precision) -> list[str]:
    """The limits of parity that are missed."""
    together = {name: compared["all"] for name, compared in (reference or {}).items()}
    missed = DEFAULT_LIMITS[precision].all_failures(together)
    return [f"{name}: {reason}" for name, reasons in missed.items() for reason in reasons]


def _disagreements(agrees: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{check}: {reason}" for check, figures in agrees.items() for reason in figures["failures"]]


def _save(path: Path, outputs: Mapping[int, Outputs]) -> None:
    np.savez(path, **{f"{batch}/{name}": array for batch, each in outputs.items() for name, array in each.items()})


def _against(path: Path | None, outputs: Mapping[int, Outputs]) -> dict[str, Parity] | None:
    """Output → how far it lies from what another runner saved."""
    if path is None or not path.exists():
        return None
    with np.load(path) as wanted:
        return {name: _parity(name, wanted, outputs) for name in next(iter(outputs.values()))}


def _parity(name: str, wanted: Mapping[str, Array], outputs: Mapping[int, Outputs]) -> Parity:
    compared, together = {}, Accumulator()
    for batch, output in outputs.items():
        alone = Accumulator()
        for accumulator in (alone, together):
            accumulator.update(wanted[f"{batch}/{name}"], output[name])
        compared[str(batch)] = alone.result()
    return {**compared, "all": together.result()}


def _plain(against: dict[str, Parity] | None) -> dict[str, Any] | None:
    return against and {
        name: {batch: comparison.to_dict() for batch, comparison in compared.items()}
        for name, compared in against.items()
    }


def _milliseconds(runner: Runner, feeds: Mapping[str, Array]) -> float:
    """Median of one call, from arrays in host memory to arrays in host memory."""
    _times(runner, feeds, _WARM_UP_S)
    return 1000 * statistics.median(_times(runner, feeds, _MOST_SECONDS))


def _times(runner: Runner, feeds: Mapping[str, Array], seconds: float) -> list[float]:
    times: list[float] = []
    while not times or (len(times) < _MOST_RUNS and sum(times) < seconds):
        start = perf_counter()
        infer_rows(runner, feeds)
        times.append(perf_counter() - start)
    return times


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="a file, or a model's name with --pytorch")
    parser.add_argument("--pytorch", action="store_true", help="WHAT is a model's name; CUDA where PyTorch has it")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=[str(p) for p in Precision], default="fp32")
    parser.add_argument("--reference", type=Path, metavar="FILE.npz", help="outputs to be judged by")
    parser.add_argument("--fallback", type=Path, metavar="FILE.npz", help="the reference where that is not there")
    parser.add_argument(
        "--twin", type=Path, metavar="FILE.npz", help="outputs of the CPU twin, to be told the distance"
    )
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep the outputs for other runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
