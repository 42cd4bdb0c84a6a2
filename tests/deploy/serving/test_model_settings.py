"""NAME.toml: what it says, what it refuses, and how the cores are shared out."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from deploy.errors import InputError
from deploy.serving.settings import BatchSettings, ModelSettings, read_settings, shares

EVERY_KEY = """
instances = 2
threads = 3
device = "cpu"
versions = 2
max_batch = 16
max_delay_ms = 1.5
queue = 10
priorities = 3
default_priority = 3
timeout_ms = 250
preserve_ordering = true
"""


def written(tmp_path, text):
    file = tmp_path / "net.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_every_key_is_read(tmp_path):
    settings = read_settings(written(tmp_path, EVERY_KEY), ModelSettings())
    assert settings == ModelSettings(2, 3, "cpu", 2, 16, 1.5, 10, 3, 3, 250, True)
    assert len(EVERY_KEY.split("=")) - 1 == len(fields(ModelSettings))
    assert settings.batching == BatchSettings(16, 0.0015, 10, 3, 3, 0.25, True)


def test_what_it_does_not_say_is_as_the_command_line_has_it(tmp_path):
    defaults = ModelSettings(instances=4, timeout_ms=7)
    assert read_settings(written(tmp_path, ""), defaults) == defaults
    assert read_settings(written(tmp_path, "queue = 9"), defaults) == ModelSettings(instances=4, timeout_ms=7, queue=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_bach = 4",
            "{file}: no such key (got max_bach; expected one of instances, .*). Did you mean 'max_batch'?",
        ),
        ("zzz = 4", "{file}: no such key (got zzz; expected one of instances, .*)$"),
        ("[batching]\nmax_batch = 4", "no such key (got batching"),
        ("max_batch = 0", "{file}: max_batch (got 0; expected a whole number, 1 to 65536)"),
        ("max_batch = 4.0", "{file}: max_batch (got 4.0; expected a whole number"),
        ('max_batch = "4"', "{file}: max_batch (got '4'; expected a whole number"),
        ("instances = true", "{file}: instances (got true; expected a whole number, 1 to 256)"),
        ("max_delay_ms = -1", "{file}: max_delay_ms (got -1; expected a number, 0 to"),
        ("max_delay_ms = nan", "{file}: max_delay_ms (got nan; expected a number"),
        ("timeout_ms = inf", "{file}: timeout_ms (got inf; expected a number"),
        ("queue = [1]", "{file}: queue (got an array; expected a whole number"),
        ("queue.size = 1", "{file}: queue (got a table; expected a whole number"),
        ('device = "gpu"', "{file}: device (got 'gpu'; expected auto, cpu, cuda)"),
        ("device = [1]", "{file}: device (got an array; expected auto, cpu, cuda)"),
        ("preserve_ordering = 1", "{file}: preserve_ordering (got 1; expected true or false)"),
        ("priorities = 2\ndefault_priority = 3", "{file}: default_priority (got 3; expected 0 (the middle one) to 2"),
        ("max_batch =", "{file} is not TOML (got "),
        (b"\xff = 1", "{file} is not TOML (got "),
    ],
)
def test_what_it_cannot_mean_is_refused(tmp_path, text, message):
    file = written(tmp_path, text)
    pattern = re.escape(message.format(file=file)).replace(r"\.\*", ".*").replace(r"\$", "$")
    with pytest.raises(InputError, match=pattern):
        read_settings(file, ModelSettings())


def test_cores_are_shared_out_among_the_instances_that_state_none():
    assert shares({"a": (1, None), "b": (1, None)}, 8) == {"a": 4, "b": 4}
    assert shares({"a": (2, 2), "b": (2, None), "c": (1, None)}, 8) == {"a": 2, "b": 1, "c": 1}
    assert shares({"a": (3, None)}, 2) == {"a": 1}
    assert shares({"a": (1, 16), "b": (1, None)}, 8) == {"a": 16, "b": 1}
