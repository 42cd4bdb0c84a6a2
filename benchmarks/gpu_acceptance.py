"""Everything an NVIDIA machine can prove, in one command without network: what is there, engines built, run and judged.

python benchmarks/gpu_acceptance.py --output report/
python benchmarks/gpu_acceptance.py --models mobilenet_v3_small --budget-s 120 --json
python benchmarks/gpu_acceptance.py --models zoo --budget-s 14400          (every registered model, smallest first)
python benchmarks/gpu_acceptance.py --graphs exported/          (without PyTorch: exported/mobilenet_v3_small.onnx …)

Each model in each precision is built by every TensorRT that works here and run by TensorRT, TensorRT-RTX and ONNX
Runtime on CUDA, against PyTorch in true FP32 (without PyTorch: ONNX Runtime on the CPU) and against itself: repeated,
row by row, from several threads. The first model is also timed beside PyTorch, torch.compile, ONNX Runtime and
NVIDIA's trtexec or tensorrt_rtx (where neither is on PATH: a bare loop over TensorRT's calls), and kept under load for
minutes with its memory watched. Without a GPU the precise graphs are simulated by their twins and engines are compiled
only; the report says so, as it says of everything that was not there or did not fit the time.

Exit codes: 0 engines were executed and every check holds; 1 a check or a step failed; 2 wrong usage; 3 no check failed,
but no engine was executed here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _acceptance_plan import Subject
from _acceptance_report import executed_engines, markdown
from _acceptance_steps import FAILED, Budget, Outcome, Step, execute, python
from _measure import ROOT, images, machine

GPU_TESTS = ROOT / "tests" / "deploy"
# The most telling first: one of each family, small ones first, then those that are like them.
MODELS = (
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "yolov5n",
    "efficientnet_v2_s",
    "shufflenet_v1_x1_0_g3",
    "yolov5s_efficientnetv2",
)
_ZOO = "zoo"


def main() -> None:
    args = _arguments()
    budget = Budget(args.budget_s)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = _run(args, Path(folder), budget)
    engines = executed_engines(outcomes)
    code = 1 if any(outcome.status == FAILED for outcome in outcomes) else 0 if engines else 3
    document = _document(args, outcomes, budget, code)
    text = markdown(document)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "acceptance.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
        (args.output / "acceptance.md").write_text(text, encoding="utf-8")
    print(json.dumps(document, indent=2) if args.json else text)
    sys.exit(code)


def _run(args: argparse.Namespace, work: Path, budget: Budget) -> list[Outcome]:
    outcomes = [_do(Step("machine", python("-m", "deploy", "doctor", "--json")), budget)]
    here = {finding["name"] for finding in outcomes[0].facts or () if finding["state"] == "ok"}
    photos = work / "calibration"
    photos.mkdir()
    images(photos, args.calibration_images, (256, 320))
    subjects = [Subject(model, args, work, photos, here) for model in args.models]
    for step in steps(subjects, "NVIDIA GPU" in here, budget):
        outcomes.append(_do(step, budget))
    return outcomes


def steps(subjects: Sequence[Subject], gpu: bool, budget: Budget) -> Iterator[Step]:
    """All of them, the most telling first: what does not fit the time is at the end."""
    first, *others = subjects
    yield from first.parity()
    if gpu:
        yield Step("gpu tests", python("-m", "pytest", "-q", "-m", "gpu", GPU_TESTS), modules=("pytest",))
    yield from first.bench()
    yield from first.soak(budget.left)
    yield from first.bench_more()
    for subject in others:
        yield from subject.parity()


def _do(step: Step, budget: Budget) -> Outcome:
    outcome = execute(step, budget)
    print(
        f"[{budget.spent:4.0f} s] {outcome.step}: {outcome.status} {outcome.reason or ''}", file=sys.stderr, flush=True
    )
    return outcome


def _document(args: argparse.Namespace, outcomes: list[Outcome], budget: Budget, code: int) -> dict[str, Any]:
    return {
        "machine": machine("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-core"),
        "tools": {tool: shutil.which(tool) for tool in ("trtexec", "tensorrt_rtx")},
        "models": args.models,
        "precisions": args.precisions,
        "budget_s": budget.seconds,
        "seconds": round(budget.spent, 1),
        "executed_engines": executed_engines(outcomes),
        "exit_code": code,
        "outcomes": [vars(outcome) for outcome in outcomes],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), metavar="NAME", help=f"names, or {_ZOO}: every registered one"
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--graphs", type=Path, metavar="DIR", help="take DIR/NAME.onnx instead of exporting")
    parser.add_argument(
        "--image-size", type=int, metavar="S", help="side of the input in pixels (default: the model's)"
    )
    parser.add_argument("--calibration-images", type=int, default=64, metavar="N", help="synthetic ones (default 64)")
    parser.add_argument("--soak-s", type=float, default=120, help="under load, at most a quarter of the time (120)")
    parser.add_argument("--budget-s", type=float, default=470, help="seconds for everything (default 470)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write acceptance.json and acceptance.md there")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the report")
    args = parser.parse_args()
    if _ZOO in args.models:
        args.models = _zoo(parser)
    return args


def _zoo(parser: argparse.ArgumentParser) -> list[str]:
    """Every registered model, those of ``MODELS`` first."""
    if importlib.util.find_spec("torch") is None:
        parser.error(f"--models {_ZOO} needs PyTorch: name the models of --graphs")
    sys.path.insert(0, str(ROOT))
    from models import get_spec, list_models

    rest = sorted((name for name in list_models() if name not in MODELS), key=lambda name: get_spec(name).gmacs)
    return [*MODELS, *rest]


if __name__ == "__main__":
    main()
