"""What some plans need when they are loaded: trust in the code that they carry, or weights that they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.engine.api import ICudaEngine, OnnxParserRefitter, Refitter, Runtime
from deploy.engine.compatible import Compatible, compatible_of
from deploy.engine.flavours import Flavour
from deploy.engine.log import LogLine, failures, process_logger
from deploy.engine.network import describe
from deploy.engine.plan import unchanged_graph
from deploy.errors import DeployError, InputError
from deploy.manifest import EngineInfo

_NAMED = 5


@dataclass(frozen=True)
class Loading:
    """How a plan has to be loaded.

    Attributes:
        host_code: it carries the runtime of the release that built it (``--compatible version``). TensorRT runs such
            code only where it is told to.
        onnx: the graph with the weights that it was stripped of; None: it has its weights.
        path: where that graph lies, for weights in a file beside it.
    """

    host_code: bool = False
    onnx: bytes | None = field(default=None, repr=False)
    path: Path | None = None


AS_IT_IS = Loading()


def stripped(options: Mapping[str, Any]) -> bool:
    """Whether a plan with these options in its manifest lacks its weights."""
    return options.get("strip_weights") is True


def loading_of(plan: Path, engine: EngineInfo | None) -> Loading:
    """What the manifest says of a plan. Only with one is a plan trusted to bring code.

    Raises:
        InputError: the plan lacks its weights, and the graph that has them is not there or was changed.
    """
    if engine is None:
        return AS_IT_IS
    host_code = Compatible.VERSION in compatible_of(engine.options)
    if not stripped(engine.options):
        return Loading(host_code)
    graph = unchanged_graph(plan, engine)
    return Loading(host_code, graph.read_bytes(), graph)


def trust(runtime: Runtime, loading: Loading) -> None:
    """To be called before the plan is deserialised."""
    if loading.host_code:
        runtime.engine_host_code_allowed = True


def refit(flavour: Flavour, engine: ICudaEngine, loading: Loading, lines: Sequence[LogLine]) -> None:
    """Give a stripped engine its weights, before contexts are made of it; nothing to do for others.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/refitting-engines.html

    Raises:
        InputError: the graph's weights are not those that the engine lacks; the details name them.
    """
    if loading.onnx is None:
        return
    trt = flavour.module
    refitter: Refitter = trt.Refitter(engine, process_logger(trt))
    parser: OnnxParserRefitter = trt.OnnxParserRefitter(refitter, process_logger(trt))
    read = parser.refit_from_bytes(loading.onnx, str(loading.path.absolute()) if loading.path else None)
    if read and refitter.refit_cuda_engine():
        return
    errors = [describe(parser.get_error(index)) for index in range(parser.num_errors)]
    raise _not_refitted(loading, list(refitter.get_missing_weights()), errors or failures(lines))


def _not_refitted(loading: Loading, missing: list[str], errors: list[str]) -> DeployError:
    named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    reason = f"no weights for {named}" if missing else (errors or ["no reason given"])[0]
    return InputError(
        f"the engine was built without its weights, and {loading.path or 'the graph'} does not give them",
        got=reason,
        expected="the graph that it was built from",
        fix="Build it again, or without --strip-weights.",
        details=[*errors, *(f"missing: {name}" for name in missing)],
    )
