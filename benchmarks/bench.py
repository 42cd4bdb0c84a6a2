"""What ``bench`` adds to a query: its host latency beside a bare loop over ONNX Runtime's ``session.run``.

python benchmarks/bench.py
python benchmarks/bench.py --engine mobilenet_v3_large.onnx --seconds 10 --json

The same session answers both, in turns, on a graph of one small node and on a real network. A third column binds inputs
and outputs, as the runner does on CUDA, to the CPU's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from _measure import ROOT, describe, machine, run

sys.path.insert(0, str(ROOT))

import onnx
from onnx import helper

from deploy.bench.load import Load
from deploy.runtime.onnx_binding import BoundSession
from deploy.runtime.onnxrt import OnnxRunner

TURNS = 20


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        graphs = [_one_node(Path(folder)), args.engine or _exported(Path(folder))]
        found = {graph.name: _compare(graph, args.seconds / TURNS / 3) for graph in graphs}
    where = machine("onnxruntime", "numpy")
    if args.json:
        print(json.dumps({"benchmark": "bench", "machine": where, "microseconds": found}, indent=2))
        return
    print(describe(where))
    print(f"{'µs per query, medians':28}{'session.run':>14}{'bench':>10}{'added':>8}{'bound':>10}")
    for name, times in found.items():
        print(f"  {name:26}{times['bare']:14.1f}{times['bench']:10.1f}{times['added']:8.1f}{times['bound']:10.1f}")


def _compare(graph: Path, seconds: float) -> dict[str, float]:
    """Medians in µs; ``added`` is the median of the differences of each turn."""
    with OnnxRunner(graph, device="cpu", threads=1) as runner:
        (spec,) = runner.inputs
        shape = [1 if isinstance(dim, str) else dim for dim in spec.shape]
        feeds = {spec.name: np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)}
        session, names = runner._session, [output.name for output in runner.outputs]
        load, bound = Load(runner, [feeds], 1), BoundSession(session, names, "cpu")
        ways = {
            "bare": lambda: _loop(lambda: session.run(names, feeds), seconds),
            "bench": lambda: [query.host_ms / 1e3 for query in load.run(seconds)],
            "bound": lambda: _loop(lambda: bound.infer(feeds), seconds),
        }
        turns = [{name: 1e6 * median(measure()) for name, measure in ways.items()} for _ in range(TURNS + 1)][1:]
    added = median(turn["bench"] - turn["bare"] for turn in turns)
    return {**{name: median(turn[name] for turn in turns) for name in ways}, "added": added}


def _loop(query, seconds: float) -> list[float]:
    times, until = [], perf_counter() + seconds
    while not times or perf_counter() < until:
        start = perf_counter()
        query()
        times.append(perf_counter() - start)
    return times


def _one_node(folder: Path) -> Path:
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", tensors[:1], tensors[1:])
    path = folder / "one_node.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), path)
    return path


def _exported(folder: Path) -> Path:
    graph = folder / "mobilenet_v3_small.onnx"
    run([sys.executable, ROOT / "export.py", "--model", graph.stem, "--weights", "random", "-o", graph])
    return graph


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, help="a graph (default: mobilenet_v3_small, exported first)")
    parser.add_argument("--seconds", type=float, default=12, help="for each graph")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
