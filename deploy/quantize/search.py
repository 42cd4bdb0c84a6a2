"""The fewest layers back in FP16 that keep a budget.

Greedy, then reduced: units return in a given order until the budget is kept, and each of them is then tried in INT8
again. So nothing in the result can be spared; that no other choice has fewer layers only trying all would tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from deploy.quantize.units import Unit

Within = Callable[[frozenset[Unit]], bool]


def fewest(orders: Iterable[Sequence[Unit]], within: Within) -> frozenset[Unit]:
    """The units to keep in FP16: a set that is ``within`` the budget, and of which none can be left out.

    Of the sets that the orders lead to, that of the fewest layers; of equals that of the fewest multiply-accumulates.
    ``within`` is asked some 2 log2(k) + k times for an order of which the first k units are enough.

    Args:
        orders: all units each, in the order in which they return.
        within: whether the budget is kept with these in FP16; with all of them it is. Asked again, it must be quick.
    """
    if within(frozenset()):
        return frozenset()
    best: frozenset[Unit] | None = None
    for order in orders:
        # Another order is worth following only if less than the best of it keeps the budget.
        if best is None or within(_fewer(order, _cost(best)[0])):
            found = _irreducible(order[: _prefix(order, within)], within)
            best = min(best or found, found, key=_cost)
    assert best is not None
    return best


def _fewer(order: Sequence[Unit], layers: int) -> frozenset[Unit]:
    """The longest prefix of fewer layers."""
    counts = itertools.accumulate(len(unit.layers) for unit in order)
    return frozenset(unit for unit, count in zip(order, counts) if count < layers)


def _cost(kept: frozenset[Unit]) -> tuple[int, int]:
    return sum(len(unit.layers) for unit in kept), sum(unit.macs for unit in kept)


def _prefix(ranked: Sequence[Unit], within: Within) -> int:
    """A length of the prefix that is within the budget where one less is not: by doubling, then by halves."""
    low, high = 0, 1
    while high < len(ranked) and not within(frozenset(ranked[:high])):
        low, high = high, 2 * high
    high = min(high, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(frozenset(ranked[:middle])) else (middle, high)
    return high


def _irreducible(units: Sequence[Unit], within: Within) -> frozenset[Unit]:
    """Without each unit, the least harmful first, as long as the budget is kept."""
    kept, before = list(units), None
    while kept != before:
        before = list(kept)
        for unit in reversed(before):
            rest = [each for each in kept if each is not unit]
            if within(frozenset(rest)):
                kept = rest
    return frozenset(kept)
