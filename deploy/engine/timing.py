"""The timing cache: what kernels took on this GPU, kept between builds so that the next is quick and alike.

TensorRT's caches are of one version and one GPU, and FILE is one as TensorRT writes it: ``trtexec --timingCacheFile``
takes ours, and what trtexec wrote is taken here. Where FILE is of another version or GPU it stays as it is, and this
one's lies beside it, named by its key: ``timing.cache`` → ``timing.10.13.0.35-NVIDIA-L4-8.9.cache``. A single file of
all keys would be one that trtexec cannot read.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy import hardware
from deploy.artifacts import check_writable, locked, write_bytes
from deploy.engine.api import IBuilderConfig, ITimingCache
from deploy.engine.flavours import Flavour
from deploy.engine.log import LogLine
from deploy.errors import DeployError, InputError


def check_timing_cache(flavour: Flavour, path: Path | None) -> None:
    """Fail before the build: :class:`InputError` if this flavour has no timing cache or ``path`` is not writable."""
    if path is None:
        return
    if not flavour.can.timing_cache:
        raise InputError(
            f"{flavour.can.title} has no timing cache",
            got=path,
            fix="Leave --timing-cache out: its builder measures nothing.",
        )
    check_writable(path)


def load_timing_cache(config: IBuilderConfig, flavour: Flavour, path: Path, lines: list[LogLine]) -> None:
    """Start from what is known of this version and GPU; a file that tells nothing of them is named in ``lines``."""
    own = keyed_path(path, flavour)
    present = [place for place in (path, own) if place.is_file()]
    if any(_use(config, place.read_bytes()) for place in present):
        return
    _use(config, b"")
    for place in present:
        damaged = "is damaged: it is made anew"
        foreign = f"is of another TensorRT or GPU, or damaged: it stays as it is, and kernel times go to {own}"
        lines.append(LogLine("WARNING", f"the timing cache {place} {damaged if place == own else foreign}"))


def save_timing_cache(config: IBuilderConfig, flavour: Flavour, path: Path, lines: list[LogLine]) -> None:
    """Add what was measured to the file, beside what other processes put there in the meantime.

    A file that cannot be written costs no plan: it is a warning in ``lines``.
    """
    measured: ITimingCache = config.get_timing_cache()
    own = keyed_path(path, flavour)
    try:
        with locked(path):
            for place in (path, own):
                if (merged := _merged(config, place, measured)) is not None:
                    return write_bytes(place, merged)
            write_bytes(own, _serialized(measured))
    except (OSError, DeployError) as error:
        lines.append(LogLine("WARNING", f"the timing cache {path} was not written: {error}"))


def keyed_path(path: Path, flavour: Flavour) -> Path:
    """Where the times of this version and GPU lie when ``path`` holds those of another."""
    gpu = next(iter(hardware.devices()), None)
    key = f"{flavour.version}-{gpu.name}-{gpu.compute_capability}" if gpu else flavour.version
    return path.with_name(f"{path.stem}.{re.sub(r'[^A-Za-z0-9.]+', '-', key)}{path.suffix}")


def _use(config: IBuilderConfig, content: bytes) -> bool:
    """Whether TensorRT takes it: it compares version and GPU."""
    cache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def _merged(config: IBuilderConfig, place: Path, measured: ITimingCache) -> bytes | None:
    """What the file holds with ``measured`` added; times that it has already stay. None where it is another's."""
    if not place.is_file():
        return _serialized(measured)
    kept: ITimingCache = config.create_timing_cache(place.read_bytes())
    return _serialized(kept) if kept is not None and kept.combine(measured, False) else None


def _serialized(cache: ITimingCache) -> bytes:
    return bytes(memoryview(cache.serialize()))
