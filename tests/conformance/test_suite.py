"""Our server against the whole suite: it answers as recorded, and as Triton did but for what has a reason."""

from __future__ import annotations

import pytest

from conformance.ask import ask
from conformance.ours import Ours
from conformance.page import PAGE, renewed
from conformance.suite import CASES, differing, justified, recorded


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with Ours(tmp_path_factory.mktemp("ours")) as server:
        yield server


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_server_answers_as_recorded(ours, case):
    assert ask(ours, case) == recorded("ours")[case.name]


def test_each_case_has_a_name_of_its_own_and_was_recorded_of_both():
    names = sorted(case.name for case in CASES)
    assert sorted(set(names)) == names
    assert sorted(recorded("ours")) == sorted(recorded("triton")) == names


def test_every_difference_from_triton_has_one_reason():
    reasons = [name for row in justified() for name in row["cases"]]
    assert sorted(differing(recorded("triton"), recorded("ours"))) == sorted(reasons)


def test_nothing_ends_our_server_and_none_of_its_errors_is_its_own():
    seen = [one for observations in recorded("ours").values() for one in observations]
    assert [one for one in seen if "afterwards" in one or "failure" in one or one.get("status") == 500] == []


def test_the_page_lists_the_differences():
    text = PAGE.read_text("utf-8")
    assert renewed(text) == text, "run: make conformance-page"
