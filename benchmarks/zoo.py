"""Every registered model at full size through the whole job: export, simplify, FP32, FP16 and INT8 graphs and engines.

python benchmarks/zoo.py                       # all that docs/zoo.json does not have yet, smallest first
python benchmarks/zoo.py --only efficientnet_b7 yolov5x --again
python benchmarks/zoo.py --render              # write docs/zoo.md from docs/zoo.json and stop

Each model is run in processes of their own by the commands that users type, on seeded random weights (they behave like
learnt ones, see models/settle.py) and synthetic photographs. Results are added to docs/zoo.json as they come, so that a
run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from _measure import PEERS, ROOT, Cost, describe, execute, images, machine
from _zoo_report import render

sys.path.insert(0, str(ROOT))

from models import get_spec, list_models

RESULTS, PAGE = ROOT / "docs" / "zoo.json", ROOT / "docs" / "zoo.md"
PRECISIONS = ("fp32", "fp16", "int8")
# Rendered at one size, larger than any network's input, and prepared for each by its own preprocessing.
_PHOTOGRAPH = (720, 720)


class Failed(Exception):
    """A command's exit code was not 0."""


def main() -> None:
    args = _arguments()
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"models": {}}
    if not args.render:
        _run_all(args, known)
    PAGE.write_text(render(known, [get_spec(name) for name in list_models()]), encoding="utf-8")
    print(f"{len(known['models'])} of {len(list_models())} models in {PAGE.relative_to(ROOT)}")
    bad = [name for name, facts in known["models"].items() if facts.get("failed")]
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


def _run_all(args: argparse.Namespace, known: dict[str, Any]) -> None:
    packages = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "tensorrt_rtx_cu13")
    here = describe({name: value for name, value in machine(*packages).items() if name != "load"})
    print(here)
    done = [name for name, facts in known["models"].items() if not facts.get("failed")]
    todo = [name for name in args.only or list_models() if args.again or name not in done]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "images").mkdir()
        images(work / "images", args.images, _PHOTOGRAPH)
        for name in sorted(todo, key=lambda name: get_spec(name).gmacs):
            start = perf_counter()
            known["models"][name] = {**_chain(name, work), "images": args.images, "machine": here}
            _save(known)
            failed = known["models"][name].get("failed")
            print(f"{name}: {perf_counter() - start:.0f} s{f', FAILED: {failed}' if failed else ''}", flush=True)


def _chain(name: str, work: Path) -> dict[str, Any]:
    """What the commands reported for one model; ``failed`` where one did not succeed."""
    out = work / name
    out.mkdir()
    facts: dict[str, Any] = {}
    try:
        graph = out / f"{name}.onnx"
        facts["export"] = _command("export", "--model", name, "--weights", "random", "-o", graph)
        facts["by_hand"] = _by_hand(name, out)
        for precision in PRECISIONS:
            data = ["--calibration-data", work / "images"] if precision == "int8" else []
            facts[precision] = _command("build", graph, "--precision", precision, "-o", out, *data)
    except Failed as error:
        facts["failed"] = str(error)
    finally:
        shutil.rmtree(out)
    return facts


def _command(verb: str, *argv: str | Path) -> dict[str, Any]:
    """The document of ``python -m deploy VERB … --json`` in short, with its wall clock and peak memory."""
    text, cost = _measured([sys.executable, "-m", "deploy", verb, *map(str, argv), "--json"])
    document = json.loads(text)
    return {**_cost(cost), **(_exported(document) if verb == "export" else _built(document))}


def _exported(document: dict[str, Any]) -> dict[str, Any]:
    last = list(document["parity"].values())[-1]
    return {
        "nodes": document["nodes"],
        "bytes": document["bytes"],
        "relative": last["relative"],
        "spread": last["spread"],
        "parameters": document["manifest"]["parameters"],
        "macs": document["manifest"]["macs"],
    }


def _built(document: dict[str, Any]) -> dict[str, Any]:
    # An FP32 graph is built as it is: export compared it with PyTorch.
    verdict, quantization = document["verdicts"].get("graph", {}), document["manifest"]["quantization"] or {}
    return {
        "plan_bytes": Path(document["plan"]).stat().st_size,
        "sqnr_db": verdict.get("sqnr_db"),
        "relative": verdict.get("relative"),
        "int8_mac_share": quantization.get("int8_mac_share"),
        "steps": {step: round(seconds, 1) for step, seconds in document["seconds"].items()},
    }


def _by_hand(name: str, out: Path) -> dict[str, Any]:
    text, cost = _measured(
        [sys.executable, str(PEERS / "export_by_hand.py"), "--model", name, "-o", str(out / "by_hand.onnx"), "--count"]
    )
    return {**_cost(cost), "nodes": json.loads(text)["nodes"]}


def _measured(command: list[str]) -> tuple[str, Cost]:
    """What a command prints to stdout, and what it costs."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        code, cost = execute(command, ROOT, output, errors)
        for stream in (output, errors):
            stream.seek(0)
        if code:
            lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.startswith("error")]
            raise Failed(f"{' '.join(command[2:5])}: {' '.join(lines) or code}")
        return output.read().decode(), cost


def _cost(cost: Cost) -> dict[str, Any]:
    return {"seconds": round(cost.seconds, 1), "peak_mb": round(cost.peak_mb)}


def _save(known: dict[str, Any]) -> None:
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(RESULTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list_models(), metavar="NAME", help="these models alone")
    parser.add_argument("--again", action="store_true", help="also those that are in docs/zoo.json")
    parser.add_argument("--images", type=int, default=32, help="to calibrate and compare on (default 32)")
    parser.add_argument("--render", action="store_true", help="only write the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
