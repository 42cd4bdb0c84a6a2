"""Everything an NVIDIA machine can prove, in one command without network: what is there, engines built, run and judged.

python benchmarks/gpu_acceptance.py --output report/
python benchmarks/gpu_acceptance.py --models mobilenet_v3_small --budget-s 120 --json
python benchmarks/gpu_acceptance.py --graphs exported/          (without PyTorch: exported/mobilenet_v3_small.onnx …)

Each model in each precision is built by every TensorRT that works here and run by TensorRT, TensorRT-RTX and ONNX
Runtime on CUDA, against PyTorch in true FP32 (without PyTorch: ONNX Runtime on the CPU). Without a GPU the precise
graphs are simulated by their twins and engines are compiled only; the report says so.

Exit codes: 0 engines were executed and every check holds; 1 a check or a step failed; 2 wrong usage; 3 no check failed,
but no engine was executed here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _acceptance_report import executed_engines, markdown
from _acceptance_steps import FAILED, Budget, Outcome, Step, execute, python
from _measure import ROOT, images, machine

GPU_TESTS = ROOT / "tests" / "deploy" / "runtime"
MEASURE = Path(__file__).resolve().parent / "_acceptance_measure.py"
# As `doctor` names them → backend, what their plans are called.
FLAVOURS = {"TensorRT": ("tensorrt", ".plan"), "TensorRT-RTX": ("tensorrt_rtx", ".rtx.plan")}


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
    for model in args.models:
        job = _Model(model, args, work, photos, here)
        outcomes += [_do(step, budget) for step in job.steps()]
    if "NVIDIA GPU" in here and importlib.util.find_spec("pytest"):
        outcomes.append(_do(Step("gpu tests", python("-m", "pytest", "-q", "-m", "gpu", GPU_TESTS)), budget))
    return outcomes


def _do(step: Step, budget: Budget) -> Outcome:
    outcome = execute(step, budget)
    print(
        f"[{budget.spent:4.0f} s] {outcome.step}: {outcome.status} {outcome.reason or ''}", file=sys.stderr, flush=True
    )
    return outcome


class _Model:
    """The steps of one model, the most telling ones first."""

    def __init__(self, name: str, args: argparse.Namespace, work: Path, photos: Path, here: set[str]) -> None:
        self._name, self._work, self._photos, self._args = name, work, photos, args
        self._flavours = {title: row for title, row in FLAVOURS.items() if title in here}
        self._gpu = "NVIDIA GPU" in here
        self._graph = (args.graphs / f"{name}.onnx").resolve() if args.graphs else work / f"{name}.onnx"
        self._size = ["--image-size", str(args.image_size)] if args.image_size else []
        self._by_pytorch, self._by_onnxrt = work / f"{name}.pytorch.npz", work / f"{name}.onnxrt.npz"

    def steps(self) -> Iterator[Step]:
        if not self._args.graphs:
            network = ["--model", self._name, "--weights", "random", *self._size]
            yield self._step("export", "fp32", python(ROOT / "export.py", *network, "-o", self._graph, "--json"))
            yield self._step(
                "run PyTorch",
                "fp32",
                python(MEASURE, self._name, "--pytorch", *self._size, "--save", self._by_pytorch),
            )
        yield self._measure("run ONNX Runtime CPU", "fp32", self._graph, "cpu", save=self._by_onnxrt)
        for precision in self._args.precisions:
            yield from self._precision(precision)

    def _precision(self, precision: str) -> Iterator[Step]:
        graph, twin = self._graph, None
        if precision != "fp32":
            graph, twin = self._work / f"{self._name}.{precision}.onnx", self._work / f"{self._name}.{precision}.npz"
            yield self._build(precision, "none", graph)
            yield self._measure("run twin", precision, graph, "cpu", save=twin)
        for title, (backend, suffix) in self._flavours.items():
            plan = self._work / f"{self._name}.{precision}{suffix}"
            yield self._build(precision, backend, plan)
            if self._gpu:
                yield self._measure(f"run {title}", precision, plan, "cuda", twin=twin)
        if self._gpu:
            yield self._measure("run ONNX Runtime CUDA", precision, graph, "cuda", twin=twin)

    def _build(self, precision: str, backend: str, output: Path) -> Step:
        options: list[str | Path] = ["--precision", precision, "--backend", backend, "-o", output, "--json"]
        options += ["--keep-int8"] if precision == "int8" else []  # the layers of the twin that it is compared with
        data: list[str | Path] = [] if precision == "fp32" else ["--calibration-data", self._photos]
        command = python(ROOT / "build_engine.py", self._graph, *options, *data)
        return self._step("quantize" if backend == "none" else f"build {backend}", precision, command, self._graph)

    def _measure(
        self, what: str, precision: str, file: Path, device: str, save: Path | None = None, twin: Path | None = None
    ) -> Step:
        options: list[str | Path] = ["--device", device, "--precision", precision]
        options += ["--reference", self._by_pytorch, "--fallback", self._by_onnxrt]
        options += ["--save", save] if save else []
        options += ["--twin", twin] if twin else []
        return self._step(what, precision, python(MEASURE, file, *options), file)

    def _step(self, what: str, precision: str, command: tuple[str, ...], *needs: Path) -> Step:
        about = {"model": self._name, "precision": precision, "what": what}
        return Step(f"{self._name} {precision} {what}", command, needs, about)


def _document(args: argparse.Namespace, outcomes: list[Outcome], budget: Budget, code: int) -> dict[str, Any]:
    return {
        "machine": machine("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-core"),
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
    parser.add_argument("--models", nargs="+", default=["mobilenet_v3_small", "mobilenet_v3_large"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--graphs", type=Path, metavar="DIR", help="take DIR/NAME.onnx instead of exporting")
    parser.add_argument(
        "--image-size", type=int, metavar="S", help="side of the input in pixels (default: the model's)"
    )
    parser.add_argument("--calibration-images", type=int, default=64, metavar="N", help="synthetic ones (default 64)")
    parser.add_argument("--budget-s", type=float, default=420, help="seconds for everything (default 420)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write acceptance.json and acceptance.md there")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
