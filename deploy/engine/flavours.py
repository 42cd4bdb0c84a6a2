"""TensorRT and TensorRT-RTX: what each can do, which is here, which to build with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata

from deploy import hardware
from deploy.engine.api import TensorRt
from deploy.errors import InputError, MachineError


@dataclass(frozen=True)
class Capabilities:
    """One flavour's row. Code asks these questions; nothing else tells flavours or versions apart.

    Attributes:
        title: the product's name, for people.
        extra: the pip extra that brings it.
        minimum: oldest (major, minor) whose API this code is checked against.
        plan_magic: first four bytes of its plans.
        sized_plan: the plan's header holds the length of the whole plan, so that a truncated file is recognised.
        rtx: its plans are named ``*.rtx.plan``.
        builds_without_gpu: the builder works on a machine with no GPU.
        timed: what its plans take here soon after loading is what they go on to take.
        timing_cache: its builder times kernels on the GPU, and what it measured can be kept between builds.
        nms: its builder has kernels for NonMaxSuppression (NVIDIA/TensorRT-RTX issue 5: RTX parses it, and has none).
        compute_capabilities: it can build for a GPU other than the one in this machine.
        compatible: its plans run on one release and one kind of GPU, unless they are built to be compatible with more.
            (RTX has the names: it ignores a hardware compatibility level, and lacks the lean runtime of the others.)
        validity: its runtime tells from a plan's header whether it would run here.
        jit: it compiles kernels for the shapes that it meets, captures CUDA graphs of them itself, and keeps them in a
            runtime cache.
    """

    title: str
    extra: str
    minimum: tuple[int, int]
    plan_magic: bytes
    sized_plan: bool = False
    rtx: bool = False
    builds_without_gpu: bool = False
    timed: bool = False
    timing_cache: bool = False
    nms: bool = False
    compute_capabilities: bool = False
    compatible: bool = False
    validity: bool = False
    jit: bool = False


# In the order in which `auto` takes them. Magic of TensorRT: kPLAN_FILE_TAG in trtexec's sampleEngines.cpp; of RTX: its
# plans, and its runtime's own message on refusing a foreign one. RTX 1.2 made timing caches do nothing. RTX compiles
# kernels for the shapes it meets in the background, and runs on others until they are there: it is not timed.
FLAVOURS = {
    "tensorrt": Capabilities(
        "TensorRT", "gpu", (10, 3), b"ftrt", timed=True, timing_cache=True, nms=True, compatible=True
    ),
    "tensorrt_rtx": Capabilities(
        "TensorRT-RTX",
        "rtx",
        (1, 7),
        b"vtrt",
        sized_plan=True,
        rtx=True,
        builds_without_gpu=True,
        compute_capabilities=True,
        validity=True,
        jit=True,
    ),
}
_CUDA = (11, 12, 13)


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT. ``version`` is the library's own, for example ``1.7.1.116``."""

    name: str
    module: TensorRt
    version: str
    can: Capabilities

    def __str__(self) -> str:
        return f"{self.can.title} {self.version}"


@dataclass(frozen=True)
class FlavourState:
    """Whether a flavour can build here. ``problem`` is None where it can; ``version`` where it imports."""

    name: str
    version: str | None
    problem: str | None


def capabilities(name: str) -> Capabilities:
    """The row of one flavour. Raises :class:`InputError` for an unknown name."""
    if name not in FLAVOURS:
        raise InputError("unknown TensorRT flavour", got=name, expected=" or ".join(FLAVOURS))
    return FLAVOURS[name]


def load_flavour(name: str) -> Flavour:
    """Import ``tensorrt`` or ``tensorrt_rtx``. It may still lack a GPU: see :func:`choose_flavour`.

    Raises:
        InputError: the name is unknown.
        MachineError: the package is not installed, does not import, or is too old.
    """
    can = capabilities(name)
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
    except Exception as error:
        # Broken installations fail with OSError, RuntimeError, AttributeError…: each means the same to the user.
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise MachineError(f"{can.title} is not installed", fix=_install(can)) from error
        reason = f"{type(error).__name__}: {error}"
        raise MachineError(f"{can.title} cannot be imported", got=reason, fix=_install(can)) from error
    if version_numbers(version)[:2] < can.minimum:
        oldest = ".".join(map(str, can.minimum))
        raise MachineError(
            f"this {can.title} is too old", got=version, expected=f"{oldest} or newer", fix=_install(can)
        )
    return Flavour(name, module, version, can)


def available_flavours() -> tuple[FlavourState, ...]:
    """Every flavour, and why it cannot build here if it cannot. Never raises."""
    return tuple(_state(name) for name in FLAVOURS)


def choose_flavour(backend: str = "auto") -> Flavour:
    """The flavour to build with: ``auto`` takes TensorRT where there is a GPU, else TensorRT-RTX on the CPU.

    Raises:
        InputError: the backend is unknown.
        MachineError: what was asked for, or everything under ``auto``, cannot build here; the details say why.
    """
    if backend == "auto":
        return _first_usable()
    flavour = load_flavour(backend)
    if problem := _missing_gpu(flavour.can):
        raise MachineError(f"{flavour} cannot build here", got=problem, fix=_without_gpu())
    return flavour


def cuda_major(name: str) -> int | None:
    """The CUDA that the installed package of a flavour was built for; None where no package tells, as on a Jetson."""
    found = [major for major in _CUDA if _installed(f"{name}_cu{major}")]
    return found[0] if len(found) == 1 else None


def same_release(one: str, other: str) -> bool:
    """Whether two version texts mean one release: ``10.3.0`` and ``10.3.0.26`` do."""
    return all(a == b for a, b in zip(version_numbers(one), version_numbers(other), strict=False))


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_usable() -> Flavour:
    states = available_flavours()
    for state in states:
        if state.problem is None:
            return load_flavour(state.name)
    raise MachineError(
        "no TensorRT can build on this machine",
        expected="TensorRT and a GPU, or TensorRT-RTX",
        fix=_without_gpu(),
        details=[f"{FLAVOURS[state.name].title}: {state.problem}" for state in states],
    )


def _state(name: str) -> FlavourState:
    try:
        flavour = load_flavour(name)
    except MachineError as error:
        return FlavourState(name, None, f"{error.what}: {error.got}" if error.got else error.what)
    return FlavourState(name, flavour.version, _missing_gpu(flavour.can))


def _missing_gpu(can: Capabilities) -> str | None:
    return None if can.builds_without_gpu or hardware.devices() else "no NVIDIA GPU"


def _install(can: Capabilities) -> str:
    return f"pip install '.[{can.extra}]'"


def _without_gpu() -> str:
    rtx, gpu = _install(FLAVOURS["tensorrt_rtx"]), _install(FLAVOURS["tensorrt"])
    return f"{rtx} builds without a GPU; {gpu} is for a machine with one; --backend none stops at the ONNX file."


def version_numbers(version: str) -> tuple[int, ...]:
    """``10.13.0.35`` → ``(10, 13, 0, 35)``; parts that are no number are left out."""
    parts = version.split(".")
    return tuple(int(part) for part in parts if part.isdigit())
