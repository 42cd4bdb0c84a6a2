from __future__ import annotations

import numpy as np
import pytest

from deploy.data.replay import Replay


class Reader:
    """Three batches of 80 bytes; counts the passes."""

    def __init__(self):
        self.passes = 0

    def __call__(self):
        self.passes += 1
        for index in range(3):
            yield {"x": np.full(10, index, np.float64)}, index


def seen(replay):
    return [(feeds["x"].tolist(), beside) for feeds, beside in replay]


@pytest.mark.parametrize(("most_bytes", "passes"), [(240, 1), (239, 3), (0, 3)])
def test_batches_are_read_once_where_they_fit(most_bytes: int, passes: int):
    reader = Reader()
    replay = Replay(reader, most_bytes)
    first, second, third = seen(replay), seen(replay), seen(replay)
    assert first == second == third == [([float(index)] * 10, index) for index in range(3)]
    assert reader.passes == passes


def test_a_pass_that_was_broken_off_is_not_kept():
    replay = Replay(Reader(), 1000)
    next(iter(replay))
    assert len(seen(replay)) == 3


def test_nobody_changes_what_others_are_shown():
    replay = Replay(Reader(), 1000)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(replay))[0]["x"][0] = 1
