"""One file, or one PyTorch model, run and judged: the child process behind the acceptance run's measuring steps.

Prints one JSON document: parity with the reference (and with the twin) at each batch size, whether a repeat gives the
same bits, and milliseconds per batch. Exit code as deploy.errors has it: 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from deploy.errors import DeployError, MachineError
from deploy.images.default import default_preprocessing
from deploy.parity.compare import Accumulator, Comparison
from deploy.parity.inputs import synthetic_batches
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.base import Array, Runner
from deploy.runtime.open import open_runner
from deploy.runtime.rows import infer_rows
from deploy.specs import NetworkOptions, Precision, Preprocessing

BATCHES = (1, 7, 32)
TIMED = (1, 32)
_WARM_UP, _MOST_RUNS, _MOST_SECONDS = 5, 200, 1.5


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
    runner, preprocessing = _open(args)
    with runner:
        feeds = dict(zip(BATCHES, synthetic_batches(runner.inputs, preprocessing, BATCHES)))
        outputs = {batch: _only(infer_rows(runner, feeds[batch])) for batch in BATCHES}
        repeated = all(np.array_equal(outputs[b], _only(infer_rows(runner, feeds[b])), equal_nan=True) for b in BATCHES)
        latency = {batch: _milliseconds(runner, feeds[batch]) for batch in TIMED}
    judge = next((path for path in (args.reference, args.fallback) if path and path.exists()), None)
    against = {what: _against(path, outputs) for what, path in (("reference", judge), ("twin", args.twin))}
    if args.save:
        # After the comparison: what becomes the reference is not to be compared with itself.
        np.savez(args.save, **{str(batch): output for batch, output in outputs.items()})
    reference = against["reference"]
    limits = DEFAULT_LIMITS[Precision(args.precision)]
    failures = limits.failures(reference["all"]) if reference else []
    failures += [] if repeated else ["a repeat with the same input gives other bits"]
    return {
        "execution": runner.execution,
        "backend": runner.backend,
        "precision": args.precision,
        **{what: _plain(compared) for what, compared in against.items()},
        "repeatable": repeated,
        "latency_ms": {str(batch): round(value, 3) for batch, value in latency.items()},
        "failures": failures,
    }


def _open(args: argparse.Namespace) -> tuple[Runner, Preprocessing | None]:
    if args.pytorch:
        return _open_pytorch(args.what, args.image_size)
    runner = open_runner(Path(args.what), device=args.device)
    # ONNX Runtime falls back to the CPU where its CUDA libraries do not load.
    if args.device == "cuda" and getattr(runner, "device", "cuda") != "cuda":
        raise MachineError("ONNX Runtime could not use CUDA and fell back to the CPU", fix="Install onnxruntime-gpu.")
    return runner, runner.manifest.preprocessing if runner.manifest else default_preprocessing(runner.inputs)


def _open_pytorch(model: str, image_size: int | None) -> tuple[Runner, Preprocessing | None]:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do: see deploy.cli.main.entry
    try:
        import torch

        from deploy.runtime.networks import load_network
    except ImportError as error:
        raise MachineError("PyTorch is not installed: ONNX Runtime on the CPU is the reference", got=error) from error
    # A reference must be exact and repeatable: TF32 would leave it 10 bits of mantissa.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network = load_network(model, NetworkOptions("random", image_size=(image_size, image_size) if image_size else None))
    return network.runner("cuda" if torch.cuda.is_available() else "cpu"), network.preprocessing


def _against(path: Path | None, outputs: Mapping[int, Array]) -> dict[str, Comparison] | None:
    """The outputs beside those that another runner saved: batch by batch, and all together."""
    if path is None or not path.exists():
        return None
    compared, together = {}, Accumulator()
    with np.load(path) as wanted:
        for batch, output in outputs.items():
            alone = Accumulator()
            for accumulator in (alone, together):
                accumulator.update(wanted[str(batch)], output)
            compared[str(batch)] = alone.result()
    return {**compared, "all": together.result()}


def _plain(compared: dict[str, Comparison] | None) -> dict[str, Any] | None:
    return compared and {batch: comparison.to_dict() for batch, comparison in compared.items()}


def _milliseconds(runner: Runner, feeds: Mapping[str, Array]) -> float:
    """Median of one call, from arrays in host memory to arrays in host memory."""
    for _ in range(_WARM_UP):
        infer_rows(runner, feeds)
    times: list[float] = []
    while len(times) < _MOST_RUNS and sum(times) < _MOST_SECONDS:
        start = perf_counter()
        infer_rows(runner, feeds)
        times.append(perf_counter() - start)
    return 1000 * statistics.median(times)


def _only(outputs: Mapping[str, Array]) -> Array:
    (value,) = outputs.values()
    return value


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
