"""What a search moves between INT8 and FP16: layers, or neighbouring layers together where there are many."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from deploy.graph.irtools import constant
from deploy.graph.macs import node_macs

# A search runs the network once for each unit.
MOST_UNITS = 64


@dataclass(frozen=True)
class Unit:
    """Weighted layers that are INT8 or FP16 together, in graph order.

    Attributes:
        layers: names of nodes.
        macs: multiply-accumulates for one image; 0 where a shape is unknown.
    """

    layers: tuple[str, ...]
    macs: int

    @property
    def name(self) -> str:
        """The layer, or the first and the last of several."""
        first, *others = self.layers
        return f"{first} … {others[-1]} ({len(self.layers)} layers)" if others else first


def units_of(graph: ir.Graph, layers: Collection[str], most: int = MOST_UNITS) -> list[Unit]:
    """One unit for each of ``layers``, named nodes of ``graph``, or ``most`` units where there are more layers.

    Neighbours are joined, those of the fewest multiply-accumulates first, those within a block (residual, inception,
    dense) before those of two: what lies in one block is fused and fails together.
    """
    block = _blocks(graph)
    found = [(Unit((str(n.name),), node_macs(n) or 0), block[n]) for n in graph if n.name in layers]
    while len(found) > max(most, 1):
        index = min(range(len(found) - 1), key=lambda i: (found[i][1] != found[i + 1][1], _macs(found[i : i + 2])))
        pair = found[index : index + 2]
        joined = Unit(tuple(name for unit, _ in pair for name in unit.layers), _macs(pair))
        found[index : index + 2] = [(joined, pair[1][1])]
    return [unit for unit, _ in found]


def _macs(units: Collection[tuple[Unit, int]]) -> int:
    return sum(unit.macs for unit, _ in units)


def _blocks(graph: ir.Graph) -> dict[ir.Node, int]:
    """The number of the block of each node. Blocks meet where one tensor holds all that the rest of the graph reads."""
    unread: dict[ir.Value, int] = {value: len(value.uses()) for value in graph.inputs}
    block, found = 0, {}
    for node in graph:
        found[node] = block
        for value in node.inputs:
            if value is not None and constant(value) is None:
                unread[value] -= 1
        unread.update({value: len(value.uses()) for value in node.outputs})
        unread = {value: uses for value, uses in unread.items() if uses}
        block += len(unread) < 2
    return found
