"""NVIDIA's own timers, trtexec and TensorRT-RTX's tensorrt_rtx, run on a plan; their summary is read.

The summary is printed by samples/common/sampleReporting.cpp (github.com/NVIDIA/TensorRT), in the same words from
TensorRT 8.5 to 11: ``GPU Compute Time: min = 1.2 ms, max = …, mean = …, median = …`` and ``Throughput: 812.3 qps``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import DeployError, MachineError
from deploy.specs import TensorSpec

# Flavour → its timer.
TOOLS = {"tensorrt": "trtexec", "tensorrt_rtx": "tensorrt_rtx"}
# Kernels alone, through a CUDA graph, without the noise of waiting. TensorRT 11 does so by default.
_WANTED = ("--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--rtxCudaGraphStrategy=wholeGraph")
_COMPUTE = re.compile(r"(?<!Total )GPU Compute Time: .*?median = (\S+) ms")
_THROUGHPUT = re.compile(r"Throughput: (\S+) qps")
_LONGEST_S = 60.0


@dataclass(frozen=True)
class Summary:
    """``compute_ms`` is the median GPU Compute Time; ``throughput_qps`` counts queries, each of one batch."""

    compute_ms: float
    throughput_qps: float


def find(flavour: str) -> str:
    """The timer of a flavour on this machine. Raises :class:`MachineError` where it is not on PATH."""
    path = shutil.which(TOOLS[flavour])
    if path is None:
        raise MachineError(f"{TOOLS[flavour]} is not on PATH")
    return path


def time_plan(tool: str, plan: Path, inputs: Sequence[TensorSpec], batch: int, seconds: float) -> Summary:
    """Run ``tool`` on ``plan`` at one batch size.

    Raises:
        DeployError: it failed, in its own words.
        MachineError: it does not answer.
    """
    command = [tool, f"--loadEngine={plan}", *shapes(inputs, batch), f"--duration={seconds:g}", "--warmUp=200"]
    done = _run([*command, *flags(_run([tool, "--help"]).stdout)])
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line] or [done.stderr.strip()]
        raise DeployError(f"{Path(tool).name} failed", got=" | ".join(said[:3]) or f"exit code {done.returncode}")
    return parse(done.stdout)


def parse(text: str) -> Summary:
    """Read a performance summary. Raises :class:`DeployError` where ``text`` holds none."""
    compute, throughput = _COMPUTE.search(text), _THROUGHPUT.search(text)
    if compute is None or throughput is None:
        raise DeployError("no performance summary in the output", got=text.strip()[-200:] or "nothing")
    return Summary(float(compute[1]), float(throughput[1]))


def flags(usage: str) -> list[str]:
    """Those wanted that ``--help`` lists, but for what it calls deprecated: it is the default then."""
    lines = {name: line for line in usage.splitlines() for name in re.findall(r"^\s*(--\w+)", line)}
    wanted = {flag: lines.get(flag.partition("=")[0]) for flag in _WANTED}
    return [flag for flag, line in wanted.items() if line is not None and "deprecated" not in line.lower()]


def shapes(inputs: Sequence[TensorSpec], batch: int) -> list[str]:
    """``--shapes=input:8x3x224x224`` where the batch is dynamic; a fixed one must not be named."""
    if not any(isinstance(dim, str) for spec in inputs for dim in spec.shape):
        return []
    sizes = [[str(batch) if isinstance(dim, str) else str(dim) for dim in spec.shape] for spec in inputs]
    return ["--shapes=" + ",".join(f"{spec.name}:{'x'.join(size)}" for spec, size in zip(inputs, sizes))]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_LONGEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{Path(command[0]).name} cannot be run", got=error) from error
