from __future__ import annotations

import json

import pytest

from deploy.errors import CheckFailed, DeployError, InputError, MachineError


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "it broke"),
        ({"got": 3}, "it broke (got 3)"),
        ({"expected": "4"}, "it broke (expected 4)"),
        ({"got": 3, "expected": [4]}, "it broke (got 3; expected [4])"),
        ({"fix": "Mend it."}, "it broke. Mend it."),
        ({"got": 3, "expected": 4, "fix": "Mend it."}, "it broke (got 3; expected 4). Mend it."),
        ({"got": 0}, "it broke (got 0)"),
        ({"got": "", "expected": False}, "it broke (got ; expected False)"),
        ({"got": "two\n  lines", "details": ("not shown",)}, "it broke (got two lines)"),
    ],
)
def test_one_line_in_a_fixed_order(given, line):
    error = DeployError("it broke", **given)
    assert error.headline == str(error) == line


@pytest.mark.parametrize(("kind", "code"), [(CheckFailed, 1), (InputError, 2), (DeployError, 2), (MachineError, 3)])
def test_the_class_is_the_exit_code(kind, code):
    assert kind("it broke").exit_code == code
    assert kind("it broke").as_dict()["exit_code"] == code


def test_as_json_has_it():
    error = InputError("it broke", got=3, fix="Mend it.", details=["a", "b"])
    assert json.loads(json.dumps(error.as_dict())) == {
        "error": "it broke",
        "got": "3",
        "expected": None,
        "fix": "Mend it.",
        "details": ["a", "b"],
        "exit_code": 2,
    }
