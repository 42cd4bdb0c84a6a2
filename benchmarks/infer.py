"""``python infer.py`` beside a bare ONNX Runtime script: whole processes for one image; and how fast ``--help`` is.

python benchmarks/infer.py
python benchmarks/infer.py --engine mobilenet_v3_large.onnx --repeats 20 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from _measure import PEERS, ROOT, describe, images, interleave, machine, print_versus, run

MOST, MOST_HELP_S = 1.3, 0.3
SCRIPTS = ("export.py", "build_engine.py", "infer.py")


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        engine = args.engine or _exported(Path(folder))
        (image,) = images(Path(folder), 1, (480, 640))
        versus = interleave(
            lambda: run([sys.executable, ROOT / "infer.py", "--engine", engine, image]),
            lambda: run([sys.executable, PEERS / "infer_by_hand.py", engine, image]),
            args.repeats,
        )
    helps = {script: _help_seconds(script, args.repeats) for script in SCRIPTS}
    where = machine("onnxruntime", "numpy", "pillow")
    if args.json:
        promised = {"most": MOST, "most_help_seconds": MOST_HELP_S}
        document = {"benchmark": "infer", "machine": where, **promised, **versus.to_dict(), "help_seconds": helps}
        print(json.dumps(document, indent=2))
        return
    print(describe(where))
    print_versus("infer one image, ours against a bare script", versus)
    print(f"  promised: ratio of at most {MOST}: {'holds' if versus.ratio('seconds') <= MOST else 'MISSED'}")
    for script, seconds in helps.items():
        verdict = "holds" if seconds <= MOST_HELP_S else "MISSED"
        print(f"{script} --help {seconds:.2f} s, promised at most {MOST_HELP_S} s: {verdict}")


def _exported(folder: Path) -> Path:
    graph = folder / "mobilenet_v3_small.onnx"
    run([sys.executable, ROOT / "export.py", "--model", graph.stem, "--weights", "random", "-o", graph])
    return graph


def _help_seconds(script: str, repeats: int) -> float:
    return median(run([sys.executable, ROOT / script, "--help"]).seconds for _ in range(repeats))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, help="a graph (default: mobilenet_v3_small, exported first)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
