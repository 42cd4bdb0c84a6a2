"""The runner for a file: chosen by what the file is and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import InputError, MachineError
from deploy.graph.peek import operators
from deploy.runtime.base import Runner
from deploy.specs import Precision

if TYPE_CHECKING:
    from deploy.runtime.onnxrt import OnnxRunner


def open_runner(
    path: Path, *, device: str = "auto", threads: int | None = None, requests: int = 2, eager: bool = False
) -> Runner:
    """Open a graph (``.onnx``) or an engine (``.plan``).

    An FP16 or INT8 graph on a CPU is simulated by its twin, because ONNX Runtime computes FP16 convolutions in FP32
    there and would show neither overflow nor rounding; the runner's ``execution`` says so.

    Args:
        path: the file.
        device: ``auto`` takes CUDA where it works; ``cpu`` and ``cuda`` insist.
        threads: CPU threads for one operator; None is all cores.
        requests: what an engine runs at once; each takes memory for its largest batch. Graphs run any number.
        eager: a TensorRT-RTX engine compiles its kernels before they run, so that repeated runs are alike; else in the
            background, while slower ones run.

    Raises:
        InputError: the file is missing or neither a graph nor an engine.
        MachineError: the file needs what this machine lacks.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="an .onnx or .plan file")
    if not path.is_file():
        raise InputError(f"no such file: {path}", expected="an .onnx or .plan file")
    if path.suffix == ".plan":
        return _open_plan(path, device, requests, eager)
    if path.suffix != ".onnx":
        raise InputError(
            f"{path} is neither a graph nor an engine", got=path.suffix or "no suffix", expected=".onnx or .plan"
        )
    return _open_graph(path, device, threads)


def _open_graph(path: Path, device: str, threads: int | None) -> Runner:
    # Imported here: a machine that only runs engines has no ONNX Runtime.
    from deploy.runtime.onnxrt import OnnxRunner

    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty", expected="an ONNX graph", fix="Export it: python export.py --model NAME.")
    runner = OnnxRunner(path, device=device, threads=threads)
    if runner.device == "cpu" and _may_be_reduced(path, runner):
        return _twin_of(path, runner, threads)
    return runner


def _may_be_reduced(path: Path, runner: Runner) -> bool:
    """Whether the file may compute in FP16 or INT8, whatever its manifest says: other tools change graphs and keep it.

    With FP32 inputs such a graph cannot do without a Cast or a QuantizeLinear.
    """
    fp16 = any(spec.dtype == "float16" for spec in runner.inputs)
    return fp16 or not operators(path).isdisjoint({"Cast", "QuantizeLinear"})


def _twin_of(path: Path, runner: OnnxRunner, threads: int | None) -> Runner:
    """The twin where the graph holds FP16 or INT8 and has one, else ``runner`` itself."""
    # Imported here: plain FP32 inference needs no graph surgery, and these imports cost half a second.
    from deploy.graph.files import load
    from deploy.graph.twin import precision_of, twin
    from deploy.runtime.graphs import run_graph

    graph = load(path)
    precision = precision_of(graph)
    if precision is Precision.FP32:
        return runner
    try:
        simulation = twin(graph)
    except InputError:  # quantized by another tool, in forms (old opsets, subgraphs) that have no twin
        return runner
    runner.close()
    simulated = run_graph(simulation, threads=threads)
    simulated.manifest = runner.manifest
    simulated.execution = f"simulated on CPU by the twin of the {str(precision).upper()} graph"
    return simulated


def _open_plan(path: Path, device: str, requests: int, eager: bool) -> Runner:
    if device == "cpu":
        raise MachineError(f"{path} is an engine, which runs on a GPU only", fix="Give its ONNX graph instead.")
    from deploy.runtime.trt import open_plan

    return open_plan(path, lanes=requests, eager=eager)
