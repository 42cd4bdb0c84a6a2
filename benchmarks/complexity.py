"""Our multiply-accumulates and activations beside PyTorch's FlopCounterMode, and fvcore's where it is installed.

python benchmarks/complexity.py
python benchmarks/complexity.py --model mobilenet_v3_small --json
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _measure import describe, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import create_model, get_spec, list_models
from models.complexity import complexity

Counts = dict[str, int]


def main() -> None:
    args = _arguments()
    where = machine("torch", "fvcore")
    if not args.json:
        print(describe(where))
        print(f"{'model':28}{'GMACs':>9}{'M activ.':>10}{'s':>7}   peer: ratio of MACs, of activations, of seconds")
    rows = []
    for name in args.model or list_models():
        rows.append(_compare(name))
        if not args.json:
            print(_line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"benchmark": "complexity", "machine": where, "models": rows}, indent=2))
    if any(row["peers"]["FlopCounterMode"]["macs"] != 1 for row in rows):
        raise SystemExit("not the MACs that PyTorch counts")


def _compare(name: str) -> dict[str, Any]:
    """What we count for one network; for each peer, ours divided by theirs."""
    with torch.device("meta"):
        model = create_model(name).eval()
        image = torch.empty(1, 3, *get_spec(name).input_size)
    ours, seconds = _timed(_ours, model, image)
    peers = {}
    for peer, count in _peers().items():
        theirs, their_seconds = _timed(count, model, image)
        peers[peer] = {**{what: ours[what] / theirs[what] for what in theirs}, "seconds": seconds / their_seconds}
    return {"model": name, **ours, "seconds": seconds, "peers": peers}


def _timed(count: Callable[[nn.Module, Tensor], Counts], model: nn.Module, image: Tensor) -> tuple[Counts, float]:
    """The second of two runs: the first pays for what Python and PyTorch look up once."""
    count(model, image)
    start = perf_counter()
    return count(model, image), perf_counter() - start


def _ours(model: nn.Module, image: Tensor) -> Counts:
    counted = complexity(model, [image])
    return {"macs": counted.macs, "activations": counted.activations}


def _peers() -> dict[str, Callable[[nn.Module, Tensor], Counts]]:
    return {"FlopCounterMode": _pytorch, **({"fvcore": _fvcore} if importlib.util.find_spec("fvcore") else {})}


def _pytorch(model: nn.Module, image: Tensor) -> Counts:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return {"macs": counter.get_total_flops() // 2}


def _fvcore(model: nn.Module, image: Tensor) -> Counts:
    """It runs the network for real, calls a multiply-accumulate one flop, and counts norms and pooling, too."""
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    real, pixels = copy.deepcopy(model).to_empty(device="cpu"), torch.zeros(image.shape)
    flops, activations = FlopCountAnalysis(real, pixels), ActivationCountAnalysis(real, pixels)
    for analysis in (flops, activations):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    products = sum(count for operator, count in flops.by_operator().items() if operator in _FVCORE_PRODUCTS)
    return {"macs": int(products), "activations": int(activations.total())}


_FVCORE_PRODUCTS = ("conv", "linear", "matmul", "addmm", "bmm", "einsum")


def _line(row: dict[str, Any]) -> str:
    peers = ", ".join(
        f"{peer} " + " ".join(f"{what} {ratio:.3f}" for what, ratio in ratios.items())
        for peer, ratios in row["peers"].items()
    )
    counts = f"{row['macs'] / 1e9:9.3f}{row['activations'] / 1e6:10.2f}{row['seconds']:7.2f}"
    return f"{row['model']:28}{counts}   {peers}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list_models(), metavar="NAME", help="default: all")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
