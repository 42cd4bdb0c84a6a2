"""What the engine runner adds to a request: ``TrtRunner.infer`` beside the bare calls that it makes, on the simulator.

python benchmarks/runtime.py
python benchmarks/runtime.py --requests 5000 --turns 20 --json

Both sides copy the same arrays to the same simulated GPU, run the same engine of two small nodes and copy back; the
bare one checks nothing and serves one thread. What a GPU would take is not in it: only the host's own time.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from _measure import ROOT, describe, machine

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))

from tensorrt_api.cuda import SimulatedCuda
from tensorrt_api.runners import NEWEST, OLDEST, RTX, runner

from deploy.engine.api import IExecutionContext

MOST_US = 50.0


def main() -> int:
    args = _arguments()
    rows = [
        {"flavour": str(api), "graphs": graphs, "batch": batch, **_compare(api, graphs, batch, args)}
        for api in (OLDEST, NEWEST, RTX)
        for graphs in (True, False)
        for batch in (1, 32)
    ]
    holds = all(row["added_us"] < MOST_US for row in rows)
    where = machine("numpy", "onnxruntime")
    if args.json:
        document = {"benchmark": "runtime", "machine": where, "most_us": MOST_US, "holds": holds, "rows": rows}
        print(json.dumps(document, indent=2))
        return 0 if holds else 1
    print(describe(where))
    print(f"{'µs per request, medians':26}{'batch':>6}{'graphs':>8}{'infer':>9}{'bare':>9}{'added':>9}{'ratio':>8}")
    for row in rows:
        figures = f"{row['infer_us']:9.1f}{row['bare_us']:9.1f}{row['added_us']:9.1f}{row['ratio']:8.2f}"
        print(f"  {row['flavour']:24}{row['batch']:6}{'yes' if row['graphs'] else 'no':>8}{figures}")
    print(f"promised: below {MOST_US:.0f} µs added; {'holds' if holds else 'MISSED'}")
    return 0 if holds else 1


def _compare(api: Any, graphs: bool, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians of the turns; ``added_us`` and ``ratio`` are medians of what each turn says."""
    cuda, values = SimulatedCuda(pause=None), np.random.default_rng(0).random((batch, 4), np.float32)
    with runner(api, [(1, 8, 32)], cuda, lanes=1, graphs=graphs) as opened, cuda:
        feeds = {"input": values}
        bare = _bare(opened, values, graphs)
        np.testing.assert_array_equal(bare(), opened.infer(feeds)["logits"])
        for _ in range(3):
            opened.infer(feeds)  # by the second, the graph is there
        turns = [
            (_microseconds(lambda: opened.infer(feeds), args.requests), _microseconds(bare, args.requests))
            for _ in range(args.turns + 1)
        ][1:]
    return {
        "infer_us": median(ours for ours, _ in turns),
        "bare_us": median(bare for _, bare in turns),
        "added_us": median(ours - bare for ours, bare in turns),
        "ratio": median(ours / bare for ours, bare in turns),
    }


def _bare(opened: Any, values: np.ndarray, graphs: bool) -> Callable[[], np.ndarray]:
    """The calls of one request by hand, on memory of the runner's lane and a context of its own."""
    lane = opened._lanes[0]
    size, stream = lane.buffers.at(len(values)), lane.stream
    context: IExecutionContext = lane._new_context(0)
    (source,), (target,) = size.inputs, size.outputs
    context.set_input_shape("input", values.shape)
    context.execute_async_v3(stream.handle)
    stream.synchronize()
    launch = lambda: context.execute_async_v3(stream.handle)  # noqa: E731 - one of two ways
    if graphs and lane._graphs_left:
        graph = stream.capture(launch)
        lane._captured.append(context)  # a graph does not keep its context alive
        lane._owned.callback(graph.close)
        launch = graph.launch

    def request() -> np.ndarray:
        np.copyto(source.host, values)
        stream.upload(source.pinned, source.device, source.nbytes)
        launch()
        stream.download(target.device, target.pinned, target.nbytes)
        stream.synchronize()
        return target.host.copy()

    return request


def _microseconds(request: Callable[[], Any], requests: int) -> float:
    gc.collect()
    start = perf_counter()
    for _ in range(requests):
        request()
    return 1e6 * (perf_counter() - start) / requests


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="in one turn of each side")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
