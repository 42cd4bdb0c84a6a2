"""ONNX bytes → a TensorRT plan. Precision is in the graph: every network is built strongly typed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import hardware
from deploy.artifacts import sha256_bytes
from deploy.engine.api import Builder, IBuilderConfig, INetworkDefinition
from deploy.engine.compatible import Compatible, compatible_of
from deploy.engine.flavours import Flavour, capabilities
from deploy.engine.loading import Loading, stripped
from deploy.engine.log import LogLine, failures, process_logger, recording, warnings
from deploy.engine.network import add_batch_profile, parse_onnx
from deploy.engine.options import DEFAULT_OPTIONS, BuildOptions, check_supported, configure, settings
from deploy.engine.progress import Progress, Watch, make_monitor
from deploy.engine.refusals import NoImplementationError, refusals
from deploy.engine.timing import load_timing_cache, save_timing_cache
from deploy.errors import DeployError, InputError, MachineError
from deploy.manifest import EngineInfo
from deploy.specs import ShapeProfile

_building = threading.Lock()
_ITS_WORDS = "The details are the builder's own words."


@dataclass(frozen=True)
class BuiltEngine:
    """A plan and how it was made.

    Attributes:
        plan: the serialised engine; write it as it is.
        batch: the batch sizes it takes.
        options: what the builder was set to, for the manifest.
        warnings: the builder's, each once.
        seconds: wall clock of parsing and building.
    """

    plan: bytes = field(repr=False)
    flavour: str
    version: str
    batch: ShapeProfile
    options: dict[str, Any]
    warnings: tuple[str, ...]
    seconds: float

    def loading(self, onnx: bytes, path: Path | None) -> Loading:
        """How to load the plan, with the graph it was built from."""
        host_code = Compatible.VERSION in compatible_of(self.options)
        return Loading(host_code, onnx, path) if stripped(self.options) else Loading(host_code)

    def info(self, onnx_file: str, onnx: bytes) -> EngineInfo:
        """The manifest's record of this plan, with the GPU of this machine if there is one.

        A TensorRT plan is bound to that GPU's compute capability, a TensorRT-RTX plan only to one asked for.
        """
        gpu = next(iter(hardware.devices()), None)
        bound_to = gpu.compute_capability if gpu and not capabilities(self.flavour).rtx else None
        return EngineInfo(
            flavour=self.flavour,
            version=self.version,
            batch=self.batch,
            onnx_file=onnx_file,
            onnx_sha256=sha256_bytes(onnx),
            plan_sha256=sha256_bytes(self.plan),
            compute_capability=self.options["compute_capability"] or bound_to,
            gpu=gpu.name if gpu else None,
            driver=gpu.driver if gpu else None,
            options=self.options,
        )


def build_engine(
    onnx: bytes,
    *,
    flavour: Flavour,
    batch: ShapeProfile,
    options: BuildOptions = DEFAULT_OPTIONS,
    path: Path | None = None,
    progress: Progress | None = None,
    log: list[LogLine] | None = None,
) -> BuiltEngine:
    """Build a plan.

    Args:
        onnx: a serialised ONNX graph, in the precision it is to run in.
        flavour: what builds; see :func:`deploy.engine.flavours.choose_flavour`.
        batch: the batch sizes the plan has to take.
        options: what else the builder is told.
        path: the graph's file, where its weights lie in others beside it.
        progress: told of every phase, from the builder's threads. One that raises cancels the build.
        log: everything TensorRT says is appended here, also when the build fails.

    Raises:
        InputError: the graph cannot be parsed or built, or an option does not exist in this flavour.
        NoImplementationError: an :class:`InputError` too; the builder has no kernel for some layers.
        MachineError: no GPU for a flavour that needs one, or not enough memory.
        KeyboardInterrupt: after the builder has stopped; nothing was written.
    """
    check_supported(flavour, options)
    lines: list[LogLine] = []
    started = time.monotonic()
    try:
        with _building, recording(flavour.module, lines):
            watch = Watch(progress)
            # Parsing too: TensorRT's log comes back into Python, and swallows a Ctrl-C that is raised there.
            plan, batch, made = watch.run(lambda: _build(onnx, path, flavour, batch, options, watch, lines))
    finally:
        if log is not None:
            log.extend(lines)
    said, seconds = tuple(warnings(lines)), time.monotonic() - started
    return BuiltEngine(plan, flavour.name, flavour.version, batch, made, said, seconds)


def _build(
    onnx: bytes,
    path: Path | None,
    flavour: Flavour,
    batch: ShapeProfile,
    options: BuildOptions,
    watch: Watch,
    lines: list[LogLine],
) -> tuple[bytes, ShapeProfile, dict[str, Any]]:
    trt = flavour.module
    builder = _open_builder(flavour, lines)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, process_logger(trt))  # it owns the weights: it must outlive the build
    parse_onnx(parser, onnx, path, flavour.can.title, lines)
    config = builder.create_builder_config()
    configure(config, flavour, options)
    batch = add_batch_profile(builder, network, config, batch)
    if options.timing_cache is not None:
        load_timing_cache(config, flavour, options.timing_cache, lines)
    config.progress_monitor = make_monitor(trt, watch)
    before = len(lines)  # a timing cache that did not fit is an error too in TensorRT's log, and no reason to fail
    plan = _compile(builder, network, config)
    if plan is None:
        raise _build_failure(flavour, failures(lines[before:]))
    if options.timing_cache is not None:
        save_timing_cache(config, flavour, options.timing_cache, lines)
    return plan, batch, settings(trt, config, options)


def _open_builder(flavour: Flavour, lines: list[LogLine]) -> Builder:
    trt = flavour.module
    try:
        return trt.Builder(process_logger(trt))
    except TypeError as error:  # pybind11's words for a factory that returned no builder
        raise MachineError(
            f"{flavour} cannot start its builder",
            got="; ".join(failures(lines)) or error,
            fix="See python -m deploy doctor.",
        ) from error


def _compile(builder: Builder, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(memoryview(plan))


def _build_failure(flavour: Flavour, errors: list[str]) -> DeployError:
    if refused := refusals(errors):
        what = f"{flavour} cannot build this graph"
        return NoImplementationError(what, refused, got=errors[0], fix=_ITS_WORDS, details=errors)
    memory = [text for text in errors if "out of memory" in text.lower() or "OutOfMemory" in text]
    kind = MachineError if memory else InputError
    fix = "Build for a smaller --batch or --workspace." if memory else _ITS_WORDS
    reason = (memory or errors or ["no reason given"])[0]
    return kind(f"{flavour} cannot build this graph", got=reason, fix=fix, details=errors)
