"""What ``verify`` and ``eval`` take: a graph, an engine, or a model's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.files import load
from deploy.graph.nms import detach_nms
from deploy.graph.twin import precision_of, twin
from deploy.images.default import default_preprocessing, describe_default
from deploy.manifest import Manifest
from deploy.runtime.base import Runner
from deploy.runtime.open import open_runner
from deploy.specs import NetworkOptions, NmsSettings, Precision, Preprocessing


@dataclass(frozen=True)
class Subject:
    """An opened artefact. ``preprocessing`` is None where none is known.

    Of a graph that ends in NMS it is the network before that. An engine cannot be taken apart: :attr:`nms` tells.
    """

    name: str
    runner: Runner
    precision: Precision
    preprocessing: Preprocessing | None
    graph: ir.Model | None = None

    @property
    def nms(self) -> NmsSettings | None:
        """The settings of the NMS that ``runner`` ends in."""
        return self.runner.manifest.nms if self.runner.manifest and self.graph is None else None


def open_subject(what: str, device: str, network: NetworkOptions, warn: Callable[[str], None]) -> Subject:
    """Open a file by its suffix, anything else as a model's name (which needs PyTorch).

    Random weights and an assumed preprocessing are warned of.

    Raises:
        InputError: neither a file nor a model.
        MachineError: this machine cannot run it.
    """
    path = Path(what)
    is_file = path.suffix in (".onnx", ".plan") or (path.exists() and ":" not in what)
    subject = _from_file(path, device, network.image_size, warn) if is_file else _from_name(what, network)
    manifest = subject.runner.manifest
    if manifest is not None and manifest.weights.warning:
        warn(f"{what}: {manifest.weights.warning}")
    return subject


def check_openable(what: str, device: str) -> None:
    """Find out at once, before other artefacts take minutes, that a file is missing or an engine cannot run here.

    Raises:
        InputError, MachineError: as :func:`open_subject`.
    """
    path = Path(what)
    if path.suffix == ".plan" or (path.suffix == ".onnx" and not path.is_file()):
        open_runner(path, device=device).close()


def _from_name(what: str, network: NetworkOptions) -> Subject:
    from deploy.runtime.networks import load_network

    loaded = load_network(what, network)
    runner = loaded.runner()
    runner.manifest = Manifest(
        what,
        Precision.FP32,
        runner.inputs,
        runner.outputs,
        task=loaded.task,
        weights=loaded.weights,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
    )
    return Subject(what, runner, Precision.FP32, loaded.preprocessing)


def _from_file(path: Path, device: str, image_size: tuple[int, int] | None, warn: Callable[[str], None]) -> Subject:
    runner = open_runner(path, device=device, eager=True)
    graph = load(path) if path.suffix == ".onnx" else None
    if graph is not None:
        graph, nms = detach_nms(graph)
        runner = runner if nms is None else _without_nms(runner, graph, device)
    if runner.manifest is not None:
        precision = precision_of(graph) if graph else runner.manifest.precision
        return Subject(str(path), runner, precision, runner.manifest.preprocessing, graph)
    try:
        preprocessing = default_preprocessing(runner.inputs, image_size)
        warn(f"{path} has no manifest: assuming {describe_default(preprocessing)}")
    except InputError:
        preprocessing = None
    return Subject(str(path), runner, precision_of(graph) if graph else Precision.FP32, preprocessing, graph)


def _without_nms(whole: Runner, core: ir.Model, device: str) -> Runner:
    """The network before the NMS of ``whole``, run as ``whole`` was: there numbers can be compared one by one."""
    from deploy.runtime.graphs import run_graph

    whole.close()
    simulated = whole.execution.startswith("simulated")
    runner = run_graph(twin(core) if simulated else core, device="cpu" if simulated else device)
    runner.manifest, runner.execution = whole.manifest, f"{whole.execution}, without its NMS"
    return runner
