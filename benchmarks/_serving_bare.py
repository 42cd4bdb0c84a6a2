"""The network alone: ONNX Runtime in a loop at its best batch size. No batcher, no HTTP.

python benchmarks/_serving_bare.py GRAPH INPUTS THREADS

Reads one JSON object a line, ``{"begin", "end"}``, and answers with one line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import ROOT

sys.path.insert(0, str(ROOT))

from _serving_inputs import Inputs

from deploy.runtime.onnxrt import OnnxRunner

_BATCHES, _TRIAL_S = (1, 2, 4, 8, 16), 0.3


def main() -> None:
    runner = OnnxRunner(Path(sys.argv[1]), device="cpu", threads=int(sys.argv[3]))
    bare = _Bare(runner, Inputs.load(Path(sys.argv[2])))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(bare.measure(json.loads(line))), flush=True)


class _Bare:
    """A loop at the batch size that takes the least processor time for a row."""

    def __init__(self, runner: OnnxRunner, inputs: Inputs) -> None:
        self._runner, name = runner, runner.inputs[0].name
        self._feeds = {size: {name: np.resize(inputs.batch, (size, *inputs.batch.shape[1:]))} for size in _BATCHES}
        self._size = min(_BATCHES, key=self._cost)

    def _cost(self, size: int) -> float:
        self._rows(size, time.monotonic() + _TRIAL_S / 3)  # the first runs allocate
        start = time.process_time()
        rows = self._rows(size, time.monotonic() + _TRIAL_S)
        return (time.process_time() - start) / rows

    def measure(self, load: dict[str, Any]) -> dict[str, Any]:
        time.sleep(max(0, load["begin"] - time.monotonic()))
        return {"finished": self._rows(self._size, load["end"]), "latencies": []}

    def _rows(self, size: int, end: float) -> int:
        done = 0
        while time.monotonic() < end:
            self._runner.infer(self._feeds[size])
            done += size
        return done


if __name__ == "__main__":
    main()
