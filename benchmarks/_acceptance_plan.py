"""What the acceptance run does with one model: its steps, by what this machine has."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from _acceptance_steps import Step, python
from _measure import ROOT

HERE = Path(__file__).resolve().parent
# As `doctor` names them → backend, what their plans are called.
FLAVOURS = {"TensorRT": ("tensorrt", ".plan"), "TensorRT-RTX": ("tensorrt_rtx", ".rtx.plan")}
BENCH_BATCHES = ("1", "8", "32")
# Of all the time, at most.
_SOAK_SHARE = 0.25
# What loading takes before the load, and comparing after it.
_SOAK_START_S = 12.0


class Subject:
    """One model. ``here`` are the names of what `doctor` found in order."""

    def __init__(self, name: str, args: argparse.Namespace, work: Path, photos: Path, here: set[str]) -> None:
        self._name, self._work, self._photos, self._args = name, work, photos, args
        self._flavours = {title: row for title, row in FLAVOURS.items() if title in here}
        self._gpu = "NVIDIA GPU" in here
        self._graph = (args.graphs / f"{name}.onnx").resolve() if args.graphs else work / f"{name}.onnx"
        self._size = ["--image-size", str(args.image_size)] if args.image_size else []
        self._by_pytorch, self._by_onnxrt = work / f"{name}.pytorch.npz", work / f"{name}.onnxrt.npz"

    def parity(self) -> Iterator[Step]:
        """Export, build in each precision, run each way there is."""
        if not self._args.graphs:
            network = ["--model", self._name, "--weights", "random", *self._size]
            yield self._step("export", "fp32", python(ROOT / "export.py", *network, "-o", self._graph, "--json"))
            command = self._child("measure", self._name, "--pytorch", *self._size, "--save", self._by_pytorch)
            yield self._step("run PyTorch", "fp32", command)
        yield self._measure("run ONNX Runtime CPU", "fp32", self._graph, "cpu", save=self._by_onnxrt)
        for precision in self._args.precisions:
            yield from self._precision(precision)

    def bench(self) -> Iterator[Step]:
        """How fast the engines of most to win are, and what others make of the same network."""
        device = "cuda" if self._gpu else "cpu"
        yield from self._bench_engines(self._by_speed()[:1])
        if not self._args.graphs:
            yield self._bench_pytorch("PyTorch eager", BENCH_BATCHES)
        precision = self._peers()
        yield self._bench(f"ONNX Runtime {device.upper()}", precision, self._precise(precision), device)

    def bench_more(self) -> Iterator[Step]:
        """The engines of the other precisions, and torch.compile, which takes long for each batch size."""
        yield from self._bench_engines(self._by_speed()[1:])
        if not self._args.graphs:
            yield self._bench_pytorch("torch.compile", BENCH_BATCHES[::2] if self._gpu else ("1",), "--compile")

    def soak(self, left: float) -> Iterator[Step]:
        """The fastest engine under load for minutes; without a GPU the twin, for as long. ``left`` are seconds."""
        precision = self._by_speed()[0]
        seconds = max(1.0, min(self._args.soak_s, _SOAK_SHARE * self._args.budget_s, left - _SOAK_START_S))
        plans = [(title, self._file(precision, suffix)) for title, (_, suffix) in self._flavours.items()]
        files = plans if self._gpu and plans else [("twin", self._precise(precision))]
        device = "cuda" if self._gpu and plans else "cpu"
        for title, file in files:
            options = ["--seconds", f"{seconds / len(files):g}", "--device", device]
            command = self._child("soak", file, *options)
            yield self._step(f"soak {title}", precision, command, file)

    def _precision(self, precision: str) -> Iterator[Step]:
        graph, twin = self._precise(precision), None
        if precision != "fp32":
            twin = self._work / f"{self._name}.{precision}.npz"
            yield self._build(precision, "none", graph)
            yield self._measure("run twin", precision, graph, "cpu", save=twin)
        for title, (backend, suffix) in self._flavours.items():
            plan = self._file(precision, suffix)
            yield self._build(precision, backend, plan)
            if self._gpu:
                yield self._measure(f"run {title}", precision, plan, "cuda", twin=twin)
        if self._gpu:
            yield self._measure("run ONNX Runtime CUDA", precision, graph, "cuda", twin=twin)

    def _bench_engines(self, precisions: Sequence[str]) -> Iterator[Step]:
        for precision in precisions if self._gpu else ():
            for title, (_, suffix) in self._flavours.items():
                yield self._bench(title, precision, self._file(precision, suffix), "cuda")

    def _by_speed(self) -> list[str]:
        return sorted(self._args.precisions, key=["int8", "fp16", "fp32"].index)

    def _peers(self) -> str:
        """The precision in which others are timed: what they run fastest without a calibration of their own."""
        return "fp16" if self._gpu and "fp16" in self._args.precisions else "fp32"

    def _file(self, precision: str, suffix: str) -> Path:
        return self._work / f"{self._name}.{precision}{suffix}"

    def _precise(self, precision: str) -> Path:
        return self._graph if precision == "fp32" else self._file(precision, ".onnx")

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
        return self._step(what, precision, self._child("measure", file, *options), file)

    def _bench(self, title: str, precision: str, file: Path, device: str) -> Step:
        command = self._child("bench", file, "--batches", *BENCH_BATCHES, "--duration-s", "1.5", "--device", device)
        return self._step(f"bench {title}", precision, command, file)

    def _bench_pytorch(self, title: str, batches: Sequence[str], *options: str) -> Step:
        precision = self._peers()
        command = self._child(
            "pytorch", self._name, "--batches", *batches, "--precision", precision, *self._size, *options
        )
        return self._step(f"bench {title}", precision, command)

    def _child(self, script: str, *arguments: str | Path) -> tuple[str, ...]:
        return python(HERE / f"_acceptance_{script}.py", *arguments)

    def _step(self, what: str, precision: str, command: Sequence[str], *needs: Path) -> Step:
        about = {"model": self._name, "precision": precision, "what": what}
        return Step(f"{self._name} {precision} {what}", tuple(command), needs, about)
