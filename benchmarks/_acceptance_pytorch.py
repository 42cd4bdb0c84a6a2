"""A network in PyTorch, as it is and through torch.compile: the child process behind the acceptance run's peers.

Prints one JSON document with the median milliseconds of one query at each batch size, inputs and outputs on the device:
by CUDA events, one query queued ahead; on a CPU by the host's clock. Exit code as deploy.errors has it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.errors import DeployError, MachineError
from deploy.specs import NetworkOptions

_WARM_UP_S = 0.3
# Some queries even where one takes longer than the time for all.
_FEWEST = 3


def main() -> None:
    args = _arguments()
    try:
        print(json.dumps(measure(args)))
    except DeployError as error:
        print(json.dumps(error.as_dict()))
        sys.exit(error.exit_code)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do: see deploy.cli.main.entry
    try:
        import torch

        from deploy.runtime.networks import load_network
    except ImportError as error:
        raise MachineError("PyTorch is not installed", got=error) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = (args.image_size, args.image_size) if args.image_size else None
    network = load_network(args.model, NetworkOptions("random", image_size=size))
    dtype = torch.float16 if args.precision == "fp16" and device == "cuda" else torch.float32
    # As fast as PyTorch can be told to be in a line each: channels last, TF32, cuDNN's search, CUDA graphs.
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    module = network.module.eval().to(device, dtype, memory_format=torch.channels_last)
    if args.compile:
        module = torch.compile(module, mode="reduce-overhead" if device == "cuda" else "default")
    shapes = {batch: [_sized(spec.shape, batch) for spec in network.inputs] for batch in args.batches}
    timer = _by_events if device == "cuda" else _by_clock
    batches = {}
    for batch, sizes in shapes.items():
        feeds = [torch.rand(size, device=device).to(dtype) for size in sizes]
        milliseconds = _run(lambda feeds=feeds: module(*feeds), timer, args.duration_s)
        batches[batch] = {"compute_ms": milliseconds, "images_per_second": 1000 * batch / milliseconds}
    how = f"{'torch.compile' if args.compile else 'PyTorch eager'} {torch.__version__}"
    dtype_name = str(dtype).removeprefix("torch.")
    return {"execution": f"{how}, {dtype_name} on {device.upper()}", "batches": batches}


def _run(query: Callable[[], Any], timer: Callable[[Callable[[], Any], float], list[float]], seconds: float) -> float:
    """Median milliseconds of ``query`` after a warm-up, in which it is compiled."""
    import torch

    with torch.inference_mode():
        try:
            query()
        except Exception as error:  # torch.compile fails in many ways: no compiler, no Triton, an unknown operator
            reason = str(error).strip().splitlines() or [""]
            raise MachineError("PyTorch cannot run it here", got=f"{type(error).__name__}: {reason[0]}") from error
        timer(query, _WARM_UP_S)
        return statistics.median(timer(query, seconds))


def _by_events(query: Callable[[], Any], seconds: float) -> list[float]:
    import torch

    times, previous = list[float](), None
    start = perf_counter()
    while perf_counter() - start < seconds or len(times) < _FEWEST:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        query()
        ended.record()
        if previous is not None:
            previous[1].synchronize()
            times.append(previous[0].elapsed_time(previous[1]))
        previous = (began, ended)
    torch.cuda.synchronize()
    return times


def _by_clock(query: Callable[[], Any], seconds: float) -> list[float]:
    times, start = list[float](), perf_counter()
    while perf_counter() - start < seconds or len(times) < _FEWEST:
        began = perf_counter()
        query()
        times.append(1000 * (perf_counter() - began))
    return times


def _sized(shape: tuple[int | str, ...], batch: int) -> tuple[int, ...]:
    return tuple(batch if isinstance(dim, str) else dim for dim in shape)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a registered name")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="on a GPU; a CPU runs fp32")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--duration-s", type=float, default=1.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
