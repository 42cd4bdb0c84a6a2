"""malloc's settings, by what they do: a freed buffer's pages are there for the next."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from deploy.serving.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks = [bytearray(600_000), bytearray(600_000)]
del blocks
before = faults()
for _ in range(200):
    first, second = bytearray(600_000), b"x" * 600_000
    del first, second
print(faults() - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt's settings are glibc's")
def test_buffers_of_a_request_s_size_are_not_mapped_again_and_again():
    assert faults("kept") < 1000 < faults("default")
