"""The examination behind ``doctor``: Python, packages, GPU, TensorRT, and which jobs they allow."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from deploy.engine.flavours import FLAVOURS, available_flavours
from deploy.hardware import devices

OK, MISSING, PROBLEM = "ok", "missing", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``state`` is ``ok``, ``missing`` (a choice) or ``problem``; ``fix`` a command."""

    group: str
    name: str
    state: str
    found: str
    fix: str | None = None


# Distribution, the module that proves it works, the extra that brings it, what it is for.
_PACKAGES = (
    ("numpy", "numpy", None),
    ("pillow", "PIL.Image", None),
    ("simplejpeg", "simplejpeg", None),
    ("onnx", "onnx", None),
    ("onnx-ir", "onnx_ir", None),
    ("torch", "torch", "export"),
    ("onnxscript", "onnxscript", "export"),
    ("onnxsim", "onnxsim", "export"),
    ("safetensors", "safetensors", "export"),
    ("cuda-core", "cuda.core", "gpu"),
    ("pycuda", "pycuda", "gpu"),
)


def examine(progress: Callable[[int, int], None]) -> list[Finding]:
    """Look at everything; never raises for what is missing or broken. Imports each package to see that it works."""
    findings: list[Finding] = [_python()]
    for index, (name, module, extra) in enumerate(_PACKAGES):
        findings.append(_package(name, module, extra))
        progress(index + 1, len(_PACKAGES))
    findings += [*_onnxruntime(), *_gpus(), *_flavours()]
    return findings + list(_jobs({f.name for f in findings if f.state == OK}))


def _python() -> Finding:
    version = platform.python_version()
    found = f"{version} on {platform.machine()} {platform.system()}"
    if sys.version_info < (3, 11):
        return Finding("packages", "Python", OK, f"{found}: runs models; exporting needs 3.11 or newer")
    return Finding("packages", "Python", OK, found)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, module: str, extra: str | None) -> Finding:
    version = _version(name)
    install = f"pip install '.[{extra}]'" if extra else "pip install deploy-toolkit"
    if version is None:
        return Finding("packages", name, MISSING, "not installed", _install_pycuda() if name == "pycuda" else install)
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything; the report says what
        return Finding("packages", name, PROBLEM, f"{version} does not import: {error}", f"{install} --force-reinstall")
    return Finding("packages", name, OK, version)


def _install_pycuda() -> str:
    """pycuda has no wheels: pip compiles it."""
    if shutil.which("nvcc"):
        return "pip install pycuda"
    return "optional; pip compiles it, which needs the CUDA toolkit: put nvcc on PATH, then pip install pycuda"


def _onnxruntime() -> Iterator[Finding]:
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        yield Finding(
            "packages", "onnxruntime", PROBLEM, "both onnxruntime and onnxruntime-gpu: they overwrite each other", fix
        )
        return
    if not cpu and not gpu:
        yield Finding("packages", "onnxruntime", MISSING, "not installed", "pip install '.[cpu]'")
        return
    try:
        import onnxruntime

        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        kind = "onnxruntime-gpu" if gpu else "onnxruntime"
        yield Finding("packages", "onnxruntime", OK, f"{kind} {gpu or cpu} ({providers})", _onnxruntime_gpu(gpu))
    except Exception as error:  # noqa: BLE001 - see _package
        yield Finding(
            "packages", "onnxruntime", PROBLEM, f"does not import: {error}", "pip install --force-reinstall onnxruntime"
        )


def _onnxruntime_gpu(installed: str | None) -> str | None:
    """What adds CUDA, where there is a GPU to use it."""
    if installed or not devices():
        return None
    if platform.machine() == "aarch64":
        return "for CUDA: PyPI has no aarch64 wheel; take that of your JetPack from NVIDIA's Jetson package index"
    return "for CUDA: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


def _gpus() -> Iterator[Finding]:
    gpus = devices()
    if not gpus:
        yield Finding("GPU", "NVIDIA GPU", MISSING, "none found (no driver, or no device)")
    for gpu in gpus:
        facts = f"compute capability {gpu.compute_capability}, {gpu.memory / 2**30:.0f} GiB, driver {gpu.driver}"
        yield Finding("GPU", "NVIDIA GPU", OK, f"{gpu.name}: {facts}")


def _flavours() -> Iterator[Finding]:
    for state in available_flavours():
        title, extra = FLAVOURS[state.name].title, FLAVOURS[state.name].extra
        if state.problem is None:
            yield Finding("TensorRT", title, OK, f"{state.version} builds here")
        else:
            fix = None if state.version else f"pip install '.[{extra}]'"
            yield Finding("TensorRT", title, MISSING, state.problem, fix)


def _jobs(working: set[str]) -> Iterator[Finding]:
    """What the parts add up to."""
    jobs = {
        "export models": (
            {"torch", "onnxscript", "onnxsim", "onnxruntime"},
            "pip install '.[export,cpu]'",
        ),
        "run graphs (infer, verify, eval)": ({"onnxruntime"}, "pip install '.[cpu]'"),
        "make FP16 and INT8 graphs": ({"onnxruntime", "onnx-ir"}, "pip install '.[cpu]'"),
        "build TensorRT-RTX engines": ({"TensorRT-RTX"}, "pip install '.[rtx]'"),
        "build TensorRT engines": ({"TensorRT"}, "on a machine with an NVIDIA GPU: pip install '.[gpu]'"),
        "run engines": ({"NVIDIA GPU"}, "needs an NVIDIA GPU and pip install '.[gpu]'"),
    }
    if "pycuda" not in working:
        jobs["run engines"][0].add("cuda-core")
    if not working & {"TensorRT", "TensorRT-RTX"}:
        jobs["run engines"][0].add("TensorRT")
    for name, (needs, fix) in jobs.items():
        lacking = sorted(needs - working)
        state = MISSING if lacking else OK
        yield Finding(
            "what works here",
            name,
            state,
            f"lacks {', '.join(lacking)}" if lacking else "yes",
            fix if lacking else None,
        )
