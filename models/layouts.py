"""Checkpoints of networks that are ours but for the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from models.registry import Transform

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How another library stores the networks of a family.

    Attributes:
        name: the library's.
        mark: a tensor that every such state dict has, and none of ours.
        rename: gives the tensors our names and shapes; what it does not know keeps its name.
        adapt: fits a network to what such weights take for granted besides their names, as far as the path they were
            read from tells, and returns the preprocessing if that is known.
    """

    name: str
    mark: str
    rename: Callable[[State], State]
    adapt: Callable[[nn.Module, Path], Transform | None]


def layout_of(state: State, layouts: tuple[Layout, ...]) -> Layout | None:
    """The one of ``layouts`` that ``state`` has, None where it has our names or those of none."""
    return next((layout for layout in layouts if layout.mark in state), None)


def in_our_names(state: State, layouts: tuple[Layout, ...]) -> State:
    """``state`` renamed by the layout it has."""
    layout = layout_of(state, layouts)
    return layout.rename(state) if layout else state
