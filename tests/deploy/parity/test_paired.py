"""The paired interval against published numbers, the likelihood searched by force, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploy.parity.paired import PairedDifference, images_needed, paired_difference


def test_what_is_counted():
    first = np.array([True, True, True, False, False])
    second = np.array([True, False, False, True, False])
    found = paired_difference(first, second)
    assert found == PairedDifference(images=5, lost=2, gained=1)
    assert found.drop == pytest.approx(20.0)
    assert found.discordance == pytest.approx(0.6)


def test_published_interval():
    """Airway hyper-responsiveness of 21 children before and after a transplantation: 1 pair one way, 7 the other.

    Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial proportions",
    Statistics in Medicine 33, 2014: Tango's interval is -0.517 to -0.026.
    """
    low, high = PairedDifference(images=21, lost=1, gained=7).interval()
    assert (low, high) == (pytest.approx(-51.7, abs=0.05), pytest.approx(-2.6, abs=0.05))


def _score(images: int, lost: int, gained: int, difference: float) -> float:
    """The test's statistic with the restricted likelihood searched on a grid, not solved."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    share = np.linspace(low, high, 200_001)[1:-1]
    same = images - lost - gained
    likelihood = same * np.log(1 - 2 * share - difference)
    likelihood += lost * np.log(share + difference) + gained * np.log(share)
    best = share[likelihood.argmax()]
    return (lost - gained - images * difference) / math.sqrt(images * (2 * best + difference - difference**2))


@pytest.mark.parametrize(
    ("images", "lost", "gained"), [(1000, 15, 9), (160, 40, 20), (44, 0, 1), (50, 3, 0), (21, 7, 1)]
)
def test_the_ends_are_where_the_test_turns(images: int, lost: int, gained: int):
    low, high = PairedDifference(images, lost, gained).interval()
    assert _score(images, lost, gained, low / 100) == pytest.approx(1.959964, abs=2e-3)
    assert _score(images, lost, gained, high / 100) == pytest.approx(-1.959964, abs=2e-3)


def test_equal_classifiers_are_not_proved_equal():
    """Without one discordant image the end is z² / (n + z²)."""
    low, high = PairedDifference(images=100, lost=0, gained=0).interval()
    assert high == pytest.approx(100 * 3.8415 / 103.8415, abs=1e-3)
    assert low == pytest.approx(-high)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 5), (20, 0), (0, 20), (20, 20)])
def test_the_interval_holds_its_middle_and_stays_within_bounds(lost: int, gained: int):
    found = PairedDifference(40, lost, gained)
    low, high = found.interval()
    assert -100 <= low <= found.drop <= high <= 100
    assert PairedDifference(40, gained, lost).interval() == (pytest.approx(-high), pytest.approx(-low))
    assert PairedDifference(40, 40, 0).interval()[1] == 100


@pytest.mark.parametrize(("images", "lose", "gain"), [(1000, 0.015, 0.009), (256, 0.01, 0.002), (200, 0.1, 0.1)])
def test_it_covers_the_truth_95_times_in_100(images: int, lose: float, gain: float):
    counts = np.random.default_rng(0).multinomial(images, [lose, gain, 1 - lose - gain], size=3000)
    kinds, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    covered = 0
    for (lost, gained), often in zip(kinds, times):
        low, high = PairedDifference(images, int(lost), int(gained)).interval()
        covered += often * (low <= 100 * (lose - gain) <= high)
    assert 0.94 <= covered / 3000 <= 0.985


def test_images_needed_are_enough_and_not_many_more():
    needed = images_needed(0.5, discordance=0.024)
    assert needed is not None

    def end(images: int) -> float:
        return PairedDifference(images, round(0.012 * images), round(0.012 * images)).interval()[1]

    assert end(round(1.01 * needed)) < 0.5 < end(round(0.95 * needed))


def test_images_needed_where_none_differs():
    assert images_needed(0.5, discordance=0.0) == 765
    assert PairedDifference(765, 0, 0).interval()[1] <= 0.5 < PairedDifference(764, 0, 0).interval()[1]


def test_no_number_of_images_shows_a_drop_at_the_budget_to_be_within_it():
    assert images_needed(0.5, discordance=0.02, drop=0.5) is None
    assert images_needed(0.5, discordance=0.02, drop=0.6) is None
    fewer, more = images_needed(0.5, 0.02), images_needed(0.5, 0.02, drop=0.3)
    assert fewer < more


def test_nothing_is_gained_on_the_first_ones_own_answers():
    """What is lost is then one share, and its interval Wilson's: 1 of 256 is at most 2.18 %."""
    low, high = PairedDifference(256, 1, 0, gains=False).interval()
    assert low == 0
    assert high == pytest.approx(2.179, abs=1e-3)
