"""The timing cache: what kernels took on this GPU, kept between builds so that the next is quick and alike."""

from __future__ import annotations

from pathlib import Path

from deploy.artifacts import check_writable, write_bytes
from deploy.engine.api import IBuilderConfig
from deploy.engine.flavours import Flavour
from deploy.engine.log import LogLine
from deploy.errors import InputError


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


def load_timing_cache(config: IBuilderConfig, path: Path, lines: list[LogLine]) -> None:
    """Start from the file where there is one; one that does not fit is left out with a warning in ``lines``."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is not None and config.set_timing_cache(cache, False):
        return
    config.set_timing_cache(config.create_timing_cache(b""), False)
    lines.append(
        LogLine("WARNING", f"the timing cache {path} is damaged or of another TensorRT or GPU: started afresh")
    )


def save_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Write what the builder knows now, atomically."""
    write_bytes(path, bytes(memoryview(config.get_timing_cache().serialize())))
