"""Watches a module run: which module runs an operator, what it multiplies, how much memory is alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from models.macs import operator_macs

Shape = tuple[int, ...]


@dataclass
class Cost:
    """What one module has run by itself, not counting the modules inside it, and the shapes it returned last."""

    operators: int = 0
    macs: int = 0
    activations: int = 0
    outputs: tuple[Shape, ...] = ()


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves this class untyped
    """While entered, sums up the cost of each module in ``costs`` and of memory in ``memory``.

    The innermost module whose ``forward`` runs is charged: a product in a block's own ``forward`` is the block's.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory
        self.costs: dict[nn.Module, Cost] = {}
        self._running: list[Cost] = []

    def __enter__(self) -> Meter:
        self._hooks = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._running.append(self.costs.setdefault(module, Cost()))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._running.pop().outputs = tuple(tuple(tensor.shape) for tensor in tensors(outputs))

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        output = operator(*arguments, **(options or {}))
        self.memory.hold(tensors(output))
        if self._running:
            cost = self._running[-1]
            cost.operators += 1
            macs = operator_macs(operator, arguments, output)
            if macs is not None:
                cost.macs += macs
                cost.activations += output.numel()
        return output


class Memory:
    """The most bytes alive at once of the tensors it is told of. Views share bytes; tensors in ``free`` cost none."""

    def __init__(self, free: Iterable[Tensor]) -> None:
        self.peak = 0
        self._now = 0
        # A storage's Python object lives as long as its memory: its id stands for it until the weak reference dies.
        self._free = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in free)}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def hold(self, given: Iterable[Tensor]) -> None:
        """Count the storages of these tensors from now until they die."""
        for tensor in given:
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self._alive and key not in self._free:
                self._alive[key] = weakref.ref(storage, partial(self._release, key, size))
                self._now += size
        self.peak = max(self.peak, self._now)

    def _release(self, key: int, size: int, _: Any) -> None:
        del self._alive[key]
        self._now -= size


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what an operator or a module returns."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]
