"""The table of INT8 placement: complete, and the one that the documentation shows."""

import re
from pathlib import Path

import pytest

from deploy.graph.rules import FP16, RULES, markdown

PAGE = Path(__file__).parents[3] / "docs" / "precision.md"


def test_the_documentation_shows_this_table():
    (shown,) = re.findall(r"<!-- rules:.*? -->\n\n(.*?)\n<!-- /rules -->", PAGE.read_text("utf-8"), re.DOTALL)
    assert shown == markdown(), "run: python docs/refresh.py docs/precision.md"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_row_says_what_why_and_who_says_so(rule):
    assert rule.pattern
    assert rule.precision
    assert rule.why
    assert rule.source
    assert "|" not in "".join((rule.pattern, rule.why, rule.source))
    if rule.applies is not None:
        assert rule.precision == FP16
        assert rule.reason.startswith("it")


def test_names_tell_rows_apart():
    assert len({rule.name for rule in RULES}) == len(RULES)
