"""Files and networks opened for the acceptance run's child processes."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.errors import MachineError
from deploy.images.default import default_preprocessing
from deploy.runtime.base import Runner
from deploy.runtime.open import open_runner
from deploy.specs import NetworkOptions, Preprocessing


def open_file(path: Path, device: str) -> tuple[Runner, Preprocessing | None]:
    """A graph or an engine on ``cpu`` or ``cuda``. Raises :class:`MachineError` where that is not to be had."""
    runner = open_runner(path, device=device, eager=True)
    # ONNX Runtime falls back to the CPU where its CUDA libraries do not load.
    if device == "cuda" and getattr(runner, "device", "cuda") != "cuda":
        raise MachineError("ONNX Runtime could not use CUDA and fell back to the CPU", fix="Install onnxruntime-gpu.")
    return runner, runner.manifest.preprocessing if runner.manifest else default_preprocessing(runner.inputs)


def open_pytorch(model: str, image_size: int | None) -> tuple[Runner, Preprocessing | None]:
    """A network by name in exact FP32, on CUDA where PyTorch has it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do: see deploy.cli.main.entry
    try:
        import torch

        from deploy.runtime.networks import load_network
    except ImportError as error:
        raise MachineError("PyTorch is not installed: ONNX Runtime on the CPU is the reference", got=error) from error
    # A reference must be exact and repeatable: TF32 would leave it 10 bits of mantissa.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network = load_network(model, NetworkOptions("random", image_size=(image_size, image_size) if image_size else None))
    return network.runner("cuda" if torch.cuda.is_available() else "cpu"), network.preprocessing
