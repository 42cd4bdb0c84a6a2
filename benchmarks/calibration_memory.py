"""Memory and speed of INT8 calibration as the number of images grows, beside ONNX Runtime's own quantizer.

python benchmarks/calibration_memory.py
python benchmarks/calibration_memory.py --many 1000 --json

Ours is ``build_engine.py --precision int8 --backend none`` as a whole process: it also audits ranges, compares the INT8
graph with the FP32 one and writes both files. The peer is one ``quantize_static`` call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _measure import PEERS, ROOT, Cost, describe, images, machine, run

MOST_MB = 50.0  # what is promised: how much more memory many images may take than few
FEW, PEER_MANY = 100, 400
PEER_METHODS = ("MinMax", "Percentile", "Entropy")


def main() -> None:
    args = _arguments()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(Path(folder), args):
            rows.append(row)
            print(_line(row), file=sys.stderr if args.json else sys.stdout, flush=True)
    few, many = (row["peak_mb"] for row in rows[:2])
    where = machine("onnxruntime", "numpy", "pillow")
    if args.json:
        growth = {"growth_mb": round(many - few, 1), "most_mb": MOST_MB}
        print(json.dumps({"benchmark": "calibration_memory", "machine": where, **growth, "rows": rows}, indent=2))
        return
    print(describe(where))
    verdict = "holds" if many - few <= MOST_MB else "MISSED"
    print(f"ours, {args.many} against {FEW} images: {many - few:+.1f} MB, promised at most {MOST_MB:.0f} MB: {verdict}")


def _rows(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    photos, graph = folder / "photos", folder / "mobilenet_v3_small.onnx"
    photos.mkdir()
    images(photos, max(args.many, PEER_MANY), (256, 320))
    run([sys.executable, ROOT / "export.py", "--model", graph.stem, "--weights", "random", "-o", graph])
    for count in (FEW, args.many):
        yield _row("ours", "mse", count, _ours(graph, photos, count, folder / f"ours{count}.int8.onnx"))
    for method in PEER_METHODS:
        few = _row("peer", method, FEW, _peer(graph, photos, FEW, method, folder / "peer.onnx"))
        yield few
        needed = few["peak_mb"] * PEER_MANY / FEW
        if needed > _available_mb() / 2:
            yield {"what": "peer", "method": method, "images": PEER_MANY, "peak_mb": None, "needed_mb": round(needed)}
        else:
            yield _row("peer", method, PEER_MANY, _peer(graph, photos, PEER_MANY, method, folder / "peer.onnx"))


def _row(what: str, method: str, count: int, cost: Cost) -> dict[str, Any]:
    rounded = {name: round(value, 1) for name, value in asdict(cost).items()}
    return {"what": what, "method": method, "images": count, **rounded, "per_s": round(count / cost.seconds, 1)}


def _ours(graph: Path, photos: Path, count: int, output: Path) -> Cost:
    options = ["--precision", "int8", "--calibration-method", "mse", "--calibration-images", str(count)]
    command = [sys.executable, str(ROOT / "build_engine.py"), str(graph), *options]
    return run([*command, "--calibration-data", photos, "--backend", "none", "-o", output])


def _peer(graph: Path, photos: Path, count: int, method: str, output: Path) -> Cost:
    options = ["--count", str(count), "--method", method]
    return run([sys.executable, PEERS / "calibrate_by_hand.py", graph, photos, "-o", output, *options])


def _available_mb() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def _line(row: dict[str, Any]) -> str:
    head = f"{row['what']:5} {row['method']:10} {row['images']:5} images: "
    if row["peak_mb"] is None:
        return f"{head}not tried, it would need about {row['needed_mb']} MB"
    return f"{head}peak {row['peak_mb']:7.1f} MB, {row['seconds']:6.1f} s, {row['per_s']:6.1f} images/s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=4000, help="the larger number of images (default 4000)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
