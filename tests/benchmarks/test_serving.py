"""A short run of the servers' comparison, and what its parts make of known numbers."""

from __future__ import annotations

import json
import sys
import threading
from itertools import islice

import numpy as np
import pytest
from commands import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from _serving_load import Load, _poisson, generate
from _serving_report import Results, Turn, promises, report
from _serving_wire import Wire, Wrong


def test_ours_beside_the_bound(run_benchmark, classified):
    options = ("--seconds", "1", "--rounds", "1", "--servers", "ours,in-process", "--concurrency", "1,64")
    done = run_benchmark("serving.py", "--engine", classified, *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(turn["kind"], turn["connections"], turn["server"]) for turn in found["turns"]] == [
        (kind, connections, server)
        for kind in ("tensor", "image")
        for connections in (1, 64)
        for server in ("ours", "in-process")
    ]
    for turn in found["turns"]:
        assert turn["throughput"] > 10
        assert 0 < turn["p50_ms"] <= turn["p99_ms"]
        assert turn["memory_mb"] > 20
        assert turn["cpu_ms"] > 0
    assert len(found["promises"]) == 4
