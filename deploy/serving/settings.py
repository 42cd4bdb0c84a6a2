"""How a model is served: what the command line says of all models, and ``NAME.toml`` of one."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from deploy.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class BatchSettings:
    """How requests are batched.

    Attributes:
        max_batch: rows in one run.
        max_delay: seconds the oldest request waits for others while an instance is free.
        max_queue: requests that may wait.
        priorities: levels; 1 goes first.
        default_priority: that of a request that names none, or 0; 0 is the middle one.
        timeout: seconds that a request may wait for its start where it names none; None is for ever.
        preserve_ordering: answers leave in the order in which their requests started, whichever instance is first: of
            one priority, that is the order in which they came.
    """

    max_batch: int = 8
    max_delay: float = 0.0
    max_queue: int = 256
    priorities: int = 1
    default_priority: int = 0
    timeout: float | None = None
    preserve_ordering: bool = False

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_queue, self.priorities) < 1 or not 0 <= self.max_delay < float("inf"):
            raise InputError("batch, queue and priorities are counts, the delay is not negative", got=self)
        if not 0 <= self.default_priority <= self.priorities:
            expected = f"0 to {self.priorities}"
            raise InputError("the default priority is none of them", got=self.default_priority, expected=expected)

    @property
    def middle(self) -> int:
        """The priority of a request that names none."""
        return self.default_priority or (self.priorities + 1) // 2


@dataclass(frozen=True)
class Range:
    """What a number may be."""

    lowest: float
    highest: float
    whole: bool = True

    def holds(self, value: object) -> bool:
        kinds = (int,) if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.lowest <= value <= self.highest

    def __str__(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'}, {self.lowest:g} to {self.highest:g}"


_DAY_MS = 86_400_000
# Key of the TOML (and, with dashes, flag) → what it may be; the others are a device and a truth.
RANGES = {
    "instances": Range(1, 256),
    "threads": Range(1, 1024),
    "versions": Range(1, 1000),
    "max_batch": Range(1, 65536),
    "max_delay_ms": Range(0, _DAY_MS, whole=False),
    "queue": Range(1, 1_000_000),
    "priorities": Range(1, 100),
    "default_priority": Range(0, 100),
    "timeout_ms": Range(0.001, _DAY_MS, whole=False),
}


@dataclass(frozen=True)
class ModelSettings:
    """The keys of a model's TOML; its flags are the same words.

    Attributes:
        instances: copies of the model, each with a thread of its own.
        threads: CPU threads of an instance; None is its share of the cores.
        device: where a graph runs, one of ``DEVICES``.
        versions: how many are served, the newest ones.
        max_batch, max_delay_ms, queue, priorities, default_priority, timeout_ms, preserve_ordering: as in
            :class:`BatchSettings`, in milliseconds.
    """

    instances: int = 1
    threads: int | None = None
    device: str = "auto"
    versions: int = 1
    max_batch: int = 8
    max_delay_ms: float = 0.0
    queue: int = 256
    priorities: int = 1
    default_priority: int = 0
    timeout_ms: float | None = None
    preserve_ordering: bool = False

    @property
    def batching(self) -> BatchSettings:
        return BatchSettings(
            max_batch=self.max_batch,
            max_delay=self.max_delay_ms / 1000,
            max_queue=self.queue,
            priorities=self.priorities,
            default_priority=self.default_priority,
            timeout=None if self.timeout_ms is None else self.timeout_ms / 1000,
            preserve_ordering=self.preserve_ordering,
        )


def read_settings(file: Path, defaults: ModelSettings) -> ModelSettings:
    """``defaults``, but what ``file`` says.

    Raises:
        InputError: it cannot be read, is not TOML, or has an unknown key, a wrong type or a value out of range.
    """
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}", got=(error.strerror or str(error)).lower()) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML", got=error) from error
    for key, value in given.items():
        _check(file, key, value)
    settings = replace(defaults, **given)
    if settings.default_priority > settings.priorities:
        expected = f"0 (the middle one) to {settings.priorities}, the priorities"
        raise InputError(f"{file}: default_priority", got=settings.default_priority, expected=expected)
    return settings


def _check(file: Path, key: str, value: object) -> None:
    known = [field.name for field in fields(ModelSettings)]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        fix = f"Did you mean '{near[0]}'?" if near else None
        raise InputError(f"{file}: no such key", got=key, expected=f"one of {', '.join(known)}", fix=fix)
    if key in RANGES:
        fits, expected = RANGES[key].holds(value), str(RANGES[key])
    elif key == "device":
        fits, expected = value in DEVICES, ", ".join(DEVICES)
    else:
        fits, expected = isinstance(value, bool), "true or false"
    if not fits:
        raise InputError(f"{file}: {key}", got=_as_toml(value), expected=expected)


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "an array"
    return repr(value)


def uses_cores(file: Path, settings: ModelSettings) -> bool:
    """Whether instances want CPU threads: a graph's, not an engine's, and not those that are to run on a GPU."""
    return file.suffix == ".onnx" and settings.device != "cuda"


def shares(demands: Mapping[str, tuple[int, int | None]], cores: int) -> dict[str, int]:
    """Model → CPU threads of each of its instances: those that are stated, and equal shares of what they leave.

    Args:
        demands: model → its instances, and the threads stated for each.
        cores: that there are. At least one thread each, so the sum may be above them.
    """
    stated = sum(instances * threads for instances, threads in demands.values() if threads is not None)
    open_ = sum(instances for instances, threads in demands.values() if threads is None)
    share = max(1, (cores - stated) // open_) if open_ else 1
    return {name: threads or share for name, (_, threads) in demands.items()}
