"""Whether threads are enough to decode and prepare images: images per second, and how long another thread waits.

python benchmarks/decoding.py
python benchmarks/decoding.py --workers 1 2 4 --seconds 5 --json

One encoded image becomes one 224-pixel input, by threads and by processes. While threads work, one more thread sleeps
for a millisecond again and again, as the server's event loop does between its events: what it oversleeps is the time
for which Python's lock, or the processor, was taken.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

from _measure import ROOT, describe, machine

sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

from deploy.images.decode import decode
from deploy.images.default import default_preprocessing
from deploy.images.preprocess import preprocess
from deploy.images.synthetic import synthetic_images
from deploy.specs import TensorSpec

_INPUT = TensorSpec("input", "float32", ("batch", 3, 224, 224))
_IMAGES = (("JPEG", 500, 375), ("JPEG", 1280, 960), ("JPEG", 4000, 3000), ("PNG", 500, 375), ("PNG", 4000, 3000))


def main() -> None:
    args = _arguments()
    found = {f"{kind} {width}x{height}": _measure(kind, width, height, args) for kind, width, height in _IMAGES}
    where = machine("pillow", "simplejpeg", "numpy")
    if args.json:
        print(json.dumps({"benchmark": "decoding", "machine": where, "images": found}, indent=2))
        return
    print(describe(where))
    print(f"{'images/s':16}" + "".join(f"{column:>13}" for column in next(iter(found.values()))))
    for name, row in found.items():
        print(f"{name:16}" + "".join(f"{value:13.1f}" for value in row.values()))


def _measure(kind: str, width: int, height: int, args: argparse.Namespace) -> dict[str, float]:
    stream = io.BytesIO()
    Image.fromarray(synthetic_images(1, (height, width), 1)[0]).save(stream, kind)
    work, row = partial(_prepare, stream.getvalue()), {}
    for pool, name in ((ThreadPoolExecutor, "threads"), (ProcessPoolExecutor, "processes")):
        for count in args.workers:
            with pool(count) as workers:
                row[f"{count} {name}"] = _rate(workers, count, work, args.seconds)
    with ThreadPoolExecutor(max(args.workers)) as workers, _Sleeper() as sleeper:
        _rate(workers, max(args.workers), work, args.seconds)
    row["late p99 ms"], row["late max ms"] = (float(np.percentile(sleeper.late, rank)) * 1e3 for rank in (99, 100))
    return row


def _prepare(file: bytes) -> None:
    preprocess(decode(file), default_preprocessing([_INPUT]))


def _rate(workers: Executor, count: int, work: Callable[[], None], seconds: float) -> float:
    """Images per second; the first of each worker is not counted."""
    for done in [workers.submit(work) for _ in range(count)]:
        done.result()
    start, images = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        for done in [workers.submit(work) for _ in range(4 * count)]:
            done.result()
        images += 4 * count
    return images / (time.perf_counter() - start)


class _Sleeper(threading.Thread):
    """Sleeps for a millisecond again and again; ``late`` are the seconds that it overslept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late: list[float] = []
        self._done = False

    def run(self) -> None:
        while not self._done:
            start = time.perf_counter()
            time.sleep(0.001)
            self.late.append(time.perf_counter() - start - 0.001)

    def __enter__(self) -> _Sleeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
