"""PyTorch modules behind the Runner contract: the reference that graphs and engines are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.errors import InputError
from deploy.graph.export import example
from deploy.runtime.base import Array, Runner
from deploy.specs import BATCH, TensorSpec


class TorchRunner(Runner):
    """Runs a module in evaluation mode, without gradients: one tensor for each input, in order."""

    backend = "pytorch"

    def __init__(
        self, model: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, device: str = "cpu"
    ) -> None:
        """Wrap ``model``, whose tensors are ``inputs`` and ``outputs``; ``device`` is PyTorch's name of one."""
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.execution = f"executed on {device.upper()} (PyTorch {torch.__version__})"
        self._device = torch.device(device)
        self._model = model.eval().to(self._device)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        # Copies: PyTorch takes neither read-only arrays nor negative strides, and a module may work in place.
        tensors = [torch.from_numpy(np.array(feeds[spec.name], order="C")) for spec in self.inputs]
        with torch.inference_mode():
            result = self._model(*(tensor.to(self._device) for tensor in tensors))
        values = [tensor.detach().cpu().numpy() for _, tensor in named_tensors(result)]
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """Nothing is held that garbage collection does not free."""


def named_tensors(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module returned, in the order in which torch.export has them, with their keys in mappings."""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from named_tensors(value, str(key))
    elif isinstance(result, tuple | list):
        for value in result:
            yield from named_tensors(value, name)


def output_specs(model: nn.Module, inputs: Sequence[TensorSpec], names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """What ``model`` returns: it is run once, in evaluation mode, on two rows of zeros.

    ``names`` are the outputs'; None takes the keys of a mapping, ``output`` for a single one, else ``output0`` and on.

    Raises:
        InputError: it does not run on such inputs, returns no tensor, or another number of them than ``names``.
    """
    found = _run_once(model, inputs)
    if not found:
        expected = "a tensor, or tensors in a tuple, list or mapping"
        raise InputError(f"{type(model).__name__} returns no tensor", expected=expected)
    named = names or _names([key for key, _ in found])
    if len(named) != len(found):
        raise InputError(f"{type(model).__name__} returns {len(found)} tensors", expected=", ".join(named))
    return tuple(_spec(name, tensor) for name, (_, tensor) in zip(named, found))


_ROWS = 2


def _run_once(model: nn.Module, inputs: Sequence[TensorSpec]) -> list[tuple[str, Tensor]]:
    feeds = [example(spec, _ROWS) for spec in inputs]
    try:
        with torch.inference_mode():
            return list(named_tensors(model.eval()(*feeds)))
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        what = f"{type(model).__name__} does not run on {', '.join(map(str, inputs))}"
        got = f"{type(error).__name__}: {reason[0]}"
        raise InputError(
            what, got=got, fix="Does it take another --image-size, or other inputs (attribute example_inputs)?"
        ) from error


def _names(keys: Sequence[str]) -> list[str]:
    if len(keys) == 1:
        return [keys[0] or "output"]
    unique = all(keys) and len(set(keys)) == len(keys)
    return list(keys) if unique else [f"output{index}" for index in range(len(keys))]


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    batched = tensor.ndim > 0 and tensor.shape[0] == _ROWS
    shape = (BATCH, *tensor.shape[1:]) if batched else tuple(tensor.shape)
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), shape)
