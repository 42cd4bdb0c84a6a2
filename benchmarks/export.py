"""``python export.py`` beside a script written by hand for one model: whole processes, from start to exit.

python benchmarks/export.py
python benchmarks/export.py --model mobilenet_v3_small --repeats 3 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from _measure import PEERS, ROOT, describe, interleave, machine, print_versus, run

MOST = 1.15  # what is promised: the checks and the manifest cost at most 15 %


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = ["--model", args.model, "-o", Path(folder) / "model.onnx"]
        versus = interleave(
            lambda: run([sys.executable, ROOT / "export.py", "--weights", "random", *model]),
            lambda: run([sys.executable, PEERS / "export_by_hand.py", *model]),
            args.repeats,
        )
    where = machine("torch", "onnxscript", "onnxsim", "onnxruntime")
    if args.json:
        document = {"benchmark": "export", "model": args.model, "machine": where, "most": MOST, **versus.to_dict()}
        print(json.dumps(document, indent=2))
        return
    print(describe(where))
    print_versus(f"export {args.model}, ours against by hand", versus)
    print(f"  promised: ratio of at most {MOST}: {'holds' if versus.ratio('seconds') <= MOST else 'MISSED'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v3_large")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
