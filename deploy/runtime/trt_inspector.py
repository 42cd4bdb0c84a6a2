"""TensorRT's engine inspector: it needs the engine loaded, and that takes a GPU."""

from __future__ import annotations

from deploy.engine.api import EngineInspector, ICudaEngine, IExecutionContext, Runtime, TensorRt
from deploy.engine.flavours import Flavour
from deploy.engine.loading import AS_IT_IS, Loading, refit, trust
from deploy.engine.log import LogLine, failures, process_logger, recording
from deploy.errors import MachineError


def plan_information(plan: bytes, flavour: Flavour, loading: Loading = AS_IT_IS) -> str:
    """The inspector's JSON on a plan, for :func:`deploy.engine.layers.read_layers`.

    Raises:
        MachineError: the plan cannot be loaded here.
        InputError: its weights are not those of its graph.
    """
    trt, lines = flavour.module, list[LogLine]()
    with recording(trt, lines):
        runtime: Runtime = trt.Runtime(process_logger(trt))
        trust(runtime, loading)
        engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise MachineError(f"{flavour} cannot load this plan", got="; ".join(failures(lines)) or "no reason given")
        refit(flavour, engine, loading, lines)
        context: IExecutionContext = engine.create_execution_context()
        return engine_information(trt, engine, context)


def engine_information(trt: TensorRt, engine: ICudaEngine, context: IExecutionContext) -> str:
    """The inspector's JSON; of formats that depend on the batch, those of the profile that ``context`` runs."""
    inspector: EngineInspector = engine.create_engine_inspector()
    if context is not None:  # else the GPU's memory is full
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
