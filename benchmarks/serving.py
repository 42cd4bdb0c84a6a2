"""Our server beside Triton, MLServer, LitServe and the same batcher without HTTP, on one network and one machine.

python benchmarks/serving.py
python benchmarks/serving.py --servers ours,in-process,triton --concurrency 64 --seconds 5 --rounds 7 --json

All servers are started, and all but the one that is asked are stopped in place (SIGSTOP). Each round asks each of them
at each concurrency, every second round in reverse order; a ratio is the median over rounds of ours to theirs in that
round. Every reply's logits are compared with what ONNX Runtime says of its input.

While the bound (``in-process``, ``bare``) runs for several connections, the load generator sends the same requests, at
the rate that ours answered last, to a sink that drops them: both sides pay for the load. ``--unloaded`` leaves it out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from _measure import ROOT, describe, machine, run

sys.path.insert(0, str(ROOT))

from _serving_inputs import KINDS, make
from _serving_report import Results, promises, report
from _serving_rounds import Bench
from _serving_subjects import SUBJECTS, Setup
from _serving_wire import MODEL


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as name, _processes(args.processes) as pool:
        folder = Path(name)
        graph = _graph(args.engine, folder)
        inputs = make(graph)
        inputs.save(folder)
        given = args.peers.absolute(), args.threads, args.max_batch
        setups = [Setup(graph, folder, kind, *given) for kind in args.inputs]
        turns = [turn for setup in setups for turn in Bench(args, inputs, pool, setup).turns()]
    where = {**machine("onnxruntime", "numpy", "uvicorn"), "threads": args.threads, "max batch": args.max_batch}
    if args.json:
        document = {"benchmark": "serving", "machine": where, "promises": promises(Results(turns))}
        print(json.dumps({**document, "turns": [asdict(turn) for turn in turns]}, indent=2))
        return
    print(f"{describe(where)}, {args.rounds} rounds of {args.seconds:g} s")
    print(report(turns))


@contextlib.contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """The load generator's, started before anything is measured."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        for started in [pool.submit(os.getpid) for _ in range(count)]:
            started.result()
        yield pool


def _graph(given: Path | None, folder: Path) -> Path:
    """What all serve; a model of ours is called as its file."""
    graph = folder / f"{MODEL}.onnx"
    if given is not None:
        return Path(shutil.copy(given, graph))
    run([sys.executable, ROOT / "export.py", "--model", "mobilenet_v3_small", "--weights", "random", "-o", graph])
    return graph


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, help="a graph of ours (default: mobilenet_v3_small, exported first)")
    parser.add_argument("--servers", type=_names(SUBJECTS), default=list(SUBJECTS), help=f"of {','.join(SUBJECTS)}")
    parser.add_argument("--inputs", type=_names(KINDS), default=list(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--concurrency", type=_counts, default=[1, 8, 64], metavar="N,N", help="connections (1,8,64)")
    parser.add_argument("--open-loop", type=_counts, default=[], metavar="R,R", help="also at these requests a second")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="ONNX Runtime's for one operator, of all (default 1)")
    parser.add_argument("--max-batch", type=int, default=8, help="of all (default 8)")
    parser.add_argument("--processes", type=int, default=1, help="of the load generator (default 1)")
    parser.add_argument("--unloaded", action="store_true", help="the bound without load beside it")
    peers = os.environ.get("BENCHMARK_PEERS", ROOT / "build" / "peers")
    parser.add_argument("--peers", type=Path, default=peers, help="environments, made where missing ($BENCHMARK_PEERS)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    # The bound has the load beside it that ours took: ours goes first.
    args.servers.sort(key=list(SUBJECTS).index)
    return args


def _names(known: dict[str, object]):
    def parse(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(known)}")
        return text.split(",")

    return parse


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
