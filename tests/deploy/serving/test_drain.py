"""The time that a server takes to end."""

from __future__ import annotations

import threading

from deploy.serving import drain as module
from deploy.serving.drain import Drain


def test_what_still_runs_after_the_limit_is_told(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    called = threading.Event()
    drain = Drain(0.01, called.set)
    assert drain.left() == 0.01
    drain.begin()
    assert called.wait(30)
    assert drain.left() == 0
    drain.end()


def test_what_ended_in_time_is_not(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    called = threading.Event()
    for begun in (False, True):
        drain = Drain(60.0, called.set)
        if begun:
            drain.begin()
            assert 0 < drain.left() <= 60
        drain.end()
    assert not called.is_set()
