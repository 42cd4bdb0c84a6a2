"""What TensorRT-RTX says of a plan before it is loaded, put into words.

https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html
"""

from __future__ import annotations

from pathlib import Path

from deploy.engine.api import Runtime
from deploy.engine.flavours import Flavour
from deploy.engine.log import LogLine, process_logger, recording
from deploy.engine.plan import plan_head

# EngineInvalidityDiagnostics → what it means, and whether another plan of the same graph would mend it.
_WORDS = {
    "VERSION_MISMATCH": ("the plan is of another TensorRT-RTX release", True),
    "UNSUPPORTED_CC": ("the plan is not for the compute capability of this GPU", True),
    "OLD_CUDA_DRIVER": ("the NVIDIA driver is too old for the plan: install a newer one", False),
    "OLD_CUDA_RUNTIME": ("the CUDA runtime is too old for the plan: install a newer one", False),
    "INSUFFICIENT_GPU_MEMORY": ("this GPU has too little memory for the plan", False),
    "MALFORMED_ENGINE": ("the plan's header is damaged", True),
    "CUDA_ERROR": ("CUDA does not work here: see python -m deploy doctor", False),
}


def invalidity(plan: Path, flavour: Flavour) -> tuple[list[tuple[str, bool]], list[str]]:
    """Ask ``Runtime.get_engine_validity``, which reads the plan's header alone.

    Returns:
        Why the plan is invalid here, each with whether building it again would help; and what is worth knowing of one
        that is valid.
    """
    trt, lines = flavour.module, list[LogLine]()
    with recording(trt, lines):
        runtime: Runtime = trt.Runtime(process_logger(trt))
        validity, diagnostics = runtime.get_engine_validity(plan_head(plan, int(runtime.engine_header_size)))
    if validity == trt.EngineValidity.VALID:
        return [], []
    if validity == trt.EngineValidity.SUBOPTIMAL:
        return [], [f"{flavour.can.title} says that the plan may be slower on this GPU than one built for it"]
    members = trt.EngineInvalidityDiagnostics.__members__
    bits = {name: int(value) for name, value in members.items()}
    found = [_WORDS[name] for name, bit in bits.items() if name in _WORDS and int(diagnostics) & bit]
    told = "; ".join(line.text for line in lines) or "no reason given"
    return found or [(f"{flavour} calls the plan invalid: {told}", True)], []
