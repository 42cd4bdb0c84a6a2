"""Plans that run on more than the release and the GPU that they were built with.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from deploy.engine.api import IBuilderConfig
from deploy.engine.flavours import Flavour, same_release, version_numbers
from deploy.errors import InputError

_AMPERE = (8, 0)
# The members of HardwareCompatibilityLevel, and the first release of TensorRT that has them.
_LEVELS = {"ampere+": ("AMPERE_PLUS", "10.3"), "same-cc": ("SAME_COMPUTE_CAPABILITY", "10.9")}


class Compatible(str, Enum):
    """What a plan is compatible with, where it was asked for.

    ``VERSION``: later releases too, also of the next major; the plan carries a runtime of its own. ``AMPERE_PLUS``: all
    GPUs of compute capability 8.0 and more. ``SAME_CC``: all GPUs of the compute capability it was built on, whatever
    their model. Each may cost speed.
    """

    VERSION = "version"
    AMPERE_PLUS = "ampere+"
    SAME_CC = "same-cc"

    def __str__(self) -> str:
        return self.value


def compatible_of(options: Mapping[str, Any]) -> tuple[Compatible, ...]:
    """What the ``options`` of a manifest say. What this version does not know is left out."""
    given = options.get("compatible") or ()
    return tuple(each for each in Compatible if isinstance(given, list | tuple) and each.value in given)


def check_compatible(flavour: Flavour, wanted: Collection[Compatible]) -> None:
    """Raise :class:`InputError` where the flavour cannot build such plans; says which can."""
    if not wanted:
        return
    named = ", ".join(map(str, wanted))
    if not flavour.can.compatible:
        raise InputError(
            f"{flavour.can.title} has no --compatible plans",
            got=named,
            expected="--backend tensorrt for that",
            fix="Leave --compatible out: its plans run on Ampere and newer GPUs as they are, "
            "and on no other release of it.",
        )
    levels = [each for each in wanted if each in _LEVELS]
    if len(levels) > 1:
        raise InputError("a plan has one hardware compatibility level", got=named, expected="ampere+ or same-cc")
    for level in levels:
        member, since = _LEVELS[level]
        if member not in flavour.module.HardwareCompatibilityLevel.__members__:
            raise InputError(
                f"{flavour} has no --compatible {level}",
                expected=f"TensorRT {since} or newer",
                fix=f"Leave it out, or build with --compatible {Compatible.AMPERE_PLUS}.",
            )


def set_compatible(config: IBuilderConfig, flavour: Flavour, wanted: Collection[Compatible]) -> None:
    """Tell the builder."""
    trt = flavour.module
    if Compatible.VERSION in wanted:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    for level in wanted:
        if level in _LEVELS:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[_LEVELS[level][0]]


def runs_in(here: str, built: str, compatible: Collection[Compatible]) -> bool:
    """Whether release ``here`` runs a plan of release ``built``: only forward, and only where that was asked for."""
    newer = version_numbers(here) >= version_numbers(built)
    return same_release(here, built) or (Compatible.VERSION in compatible and newer)


def runs_on(here: str, built: str | None, compatible: Collection[Compatible]) -> bool:
    """Whether a GPU of compute capability ``here`` runs a plan for ``built`` (None: for any)."""
    if Compatible.AMPERE_PLUS in compatible:
        return version_numbers(here) >= _AMPERE
    return built in (None, here)
