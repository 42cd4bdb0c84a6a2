"""The choice of units, on budgets that are plain arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from deploy.quantize.search import fewest
from deploy.quantize.sensitivity import Sensitivity, by_error, by_error_per_mac
from deploy.quantize.units import Unit

Kept = frozenset[Unit]


def units(count: int, macs: Sequence[int] = ()) -> list[Unit]:
    return [Unit((f"layer{index}",), macs[index] if macs else 1) for index in range(count)]


def summed(errors: dict[Unit, float], most: float) -> Callable[[Kept], bool]:
    """Within where the errors of the units in INT8 sum to no more than ``most``."""
    return lambda kept: sum(error for unit, error in errors.items() if unit not in kept) <= most


def test_nothing_returns_where_all_is_well():
    assert fewest([units(5)], lambda kept: True) == frozenset()


@pytest.mark.parametrize("culprit", range(40))
def test_one_culprit_is_found_wherever_it_stands(culprit: int):
    order = units(40)
    assert fewest([order], lambda kept: order[culprit] in kept) == {order[culprit]}


@pytest.mark.parametrize("pair", [(0, 1), (0, 39), (3, 17), (38, 39)])
def test_two_culprits(pair: tuple[int, int]):
    order = units(40)
    culprits = {order[index] for index in pair}
    assert fewest([order], lambda kept: culprits <= kept) == culprits


@pytest.mark.parametrize("seed", range(30))
def test_what_is_found_keeps_the_budget_and_cannot_be_spared(seed: int):
    """Budgets without any order in them: a random half of all sets keeps it, and everything does."""
    order = units(7)
    rng = np.random.default_rng(seed)
    subsets = [frozenset(some) for size in range(8) for some in itertools.combinations(order, size)]
    good = {kept for kept in subsets if rng.random() < 0.5} | {frozenset(order)}
    found = fewest([order], good.__contains__)
    assert found in good
    assert not any(found - {unit} in good for unit in found) or not found


@pytest.mark.parametrize("seed", range(20))
def test_with_errors_in_order_no_set_is_smaller(seed: int):
    """Where errors add up and the order is by error, the greedy prefix is the smallest set there is."""
    rng = np.random.default_rng(seed)
    order = units(8)
    errors = dict(zip(order, sorted(rng.exponential(size=8), reverse=True)))
    within = summed(errors, 0.4 * sum(errors.values()))
    found = fewest([order], within)
    assert within(found)
    assert not any(within(frozenset(some)) for some in itertools.combinations(order, len(found) - 1))


def test_the_order_that_leads_to_fewer_layers_wins():
    small, large = units(9, [1] * 8 + [100])[:8], Unit(("large",), 100)
    errors = {**dict.fromkeys(small, 1.0), large: 5.0}
    within = summed(errors, 8.0)
    assert len(fewest([[*small, large]], within)) == 5
    assert fewest([[*small, large], [large, *small]], within) == {large}


def test_few_sets_are_asked_about():
    order = units(64)
    asked: list[Kept] = []

    def within(kept: Kept) -> bool:
        asked.append(kept)
        return set(order[:5]) <= kept

    assert fewest([order], within) == set(order[:5])
    assert len(set(asked)) <= 6 + 2 + 8 + 5


def test_orders_of_sensitivities():
    first, second, third = units(3, [100, 1, 1])
    found = [
        Sensitivity(first, 50.0, 10.0, 0.0),
        Sensitivity(second, 2.0, 20.0, 0.0),
        Sensitivity(third, 2.0, 20.0, 0.0),
    ]
    assert by_error(found) == [first, second, third]
    assert by_error_per_mac(found) == [second, third, first]
