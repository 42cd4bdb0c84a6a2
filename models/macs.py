"""Multiply-accumulates of the operators that PyTorch runs, from the shapes of their tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def operator_macs(operator: Any, arguments: Sequence[Any], output: Any) -> int | None:
    """Multiply-accumulates of a convolution or matrix product; None for any other operator.

    Args:
        operator: what ran, an ``OpOverload`` of ``torch.ops.aten``.
        arguments: its positional arguments.
        output: what it returned.
    """
    formula = _FORMULAS.get(operator.overloadpacket)
    return None if formula is None else formula(arguments, output)


def _convolution(arguments: Sequence[Any], output: Tensor) -> int:
    data: Tensor = arguments[0]
    weight: Tensor = arguments[1]
    transposed: bool = arguments[6]
    # Each value of the output sums over a filter of [channels in / groups, *kernel]. Transposed it is the other way
    # round: each value of the input is multiplied by a filter of [channels out / groups, *kernel].
    values = data if transposed else output
    return values.numel() * math.prod(weight.shape[1:])


def _product(left: int, arguments: Sequence[Any], output: Tensor) -> int:
    """Every value of the output sums along the rows of argument ``left``."""
    rows: Tensor = arguments[left]
    return output.numel() * rows.shape[-1]


# linear, matmul, einsum and attention come as these: PyTorch takes them apart before an operator runs.
_FORMULAS: dict[Any, Callable[[Sequence[Any], Any], int]] = {
    _aten.convolution: _convolution,
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten.mv, _aten.dot), partial(_product, 0)),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm, _aten.addmv), partial(_product, 1)),
}
