"""The fewest layers back in FP16 that keep a budget.

Greedy, then reduced: units return in a given order until the budget is kept, and each of them is then tried in INT8
again. So nothing in the result can be spared; that no other choice has fewer layers only trying all would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deploy.quantize.units import Unit

Within = Callable[[frozenset[Unit]], bool]


def fewest(orders: Iterable[Sequence[Unit]], within: Within) -> frozenset[Unit]:
    """The units to keep in FP16: a set that is ``within`` the budget, and of which none can be left out.

    Of the sets that the orders lead to, that of the fewest layers; of equals that of the fewest multiply-accumulates.
    For each order ``within`` is asked some 2 log2(k) + k times, where the first k units are enough.

    Args:
        orders: all units each, in the order in which they return.
        within: whether the budget is kept with these in FP16; with all of them it is. Asked again, it must be quick.
    """
    if within(frozenset()):
        return frozenset()
    found = []
    for order in orders:
        found.append(_irreducible(order[: _prefix(order, within)], within))
        if _cost(found[-1])[0] == 1:
            break
    return min(found, key=_cost)


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
