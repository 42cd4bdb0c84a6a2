"""The kernels that TensorRT-RTX compiled for this GPU, kept in a file beside the plan."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from deploy.artifacts import write_bytes
from deploy.engine.api import IRuntimeCache, IRuntimeConfig
from deploy.errors import DeployError

_log = logging.getLogger(__name__)


def runtime_cache_path(plan: Path) -> Path | None:
    """``net.int8.rtx.plan`` → ``net.int8.rtx.plan.runtime_cache``; None for a file that is yet to become a plan."""
    return plan.with_name(plan.name + ".runtime_cache") if plan.suffix == ".plan" else None


class RuntimeCache:
    """One ``IRuntimeCache`` for all contexts of an engine.

    A file of another GPU, or of a later TensorRT-RTX or CUDA, does not fit: that is logged as a warning, and it is
    written anew. Without a path the cache lasts as long as the engine.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._before = path, b""
        self._kernels: IRuntimeCache = None
        self._making = threading.Lock()

    def attach(self, config: IRuntimeConfig) -> None:
        """Let the contexts of ``config`` use the cache, which has to outlive them."""
        with self._making:
            if self._kernels is None:
                self._kernels = self._read(config.create_runtime_cache())
        config.set_runtime_cache(self._kernels)

    def save(self) -> None:
        """Write what has been added; a folder that cannot be written is logged as a warning."""
        if self._path is None or self._kernels is None:
            return
        kernels = self._kernels.serialize()
        content = self._before if kernels is None else bytes(memoryview(kernels))
        if content == self._before:
            return
        try:
            write_bytes(self._path, content)
        except (DeployError, OSError) as error:
            _log.warning("the runtime cache is not kept: %s", error)

    def drop(self) -> None:
        """Let go of the cache: no context uses it any more."""
        self._kernels = None

    def _read(self, kernels: IRuntimeCache) -> IRuntimeCache:
        """``kernels`` with what the file holds."""
        if self._path is None or not self._path.is_file():
            return kernels
        try:
            content = self._path.read_bytes()
        except OSError as error:
            _log.warning("the runtime cache %s is not used: %s", self._path, error.strerror or error)
            return kernels
        if kernels.deserialize(content):
            self._before = content
        else:
            _log.warning("%s is of another GPU or version, and is made anew", self._path)
        return kernels
