"""The contract every backend keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.manifest import Manifest
from deploy.specs import TensorSpec

Array = np.ndarray[Any, Any]


class Runner(ABC):
    """Runs a network on arrays. Thread-safety and device are the backend's; the contract is this.

    Attributes:
        backend: ``pytorch``, ``onnxrt``, ``tensorrt`` or ``tensorrt_rtx``.
        execution: what a result of this runner is evidence of, in words: ``executed on CPU (ONNX Runtime 1.32.0)`` or
            ``simulated on CPU (...)`` where a twin stands in for the real arithmetic.
        inputs, outputs: the tensors, dynamic axes named.
        manifest: what the artefact says of itself; None where others made it.
    """

    backend: str
    execution: str
    manifest: Manifest | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch. The caller owns the returned arrays: no later call changes them.

        Raises:
            InputError: a name, dtype or shape does not fit :attr:`inputs`.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the runner holds. Calling it again does nothing."""

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Raise :class:`InputError` unless ``feeds`` are exactly this runner's inputs."""
        names = [spec.name for spec in self.inputs]
        if set(feeds) != set(names):
            raise InputError("the inputs have other names", got=sorted(feeds), expected=names)
        for spec in self.inputs:
            spec.check(feeds[spec.name])

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
