"""What the helper says of a process is what the process did."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.images.decode import decode


@pytest.fixture
def measure(benchmark_module):
    return benchmark_module("_measure")


def test_run_tells_time(measure):
    idle = measure.run([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert 0.5 <= idle.seconds < 5
    assert idle.cpu_seconds < 0.4


def test_run_tells_peak_memory(measure):
    """In a process of its own: Linux counts what the parent of a process held when it started it."""
    code = f"import sys; sys.path[0] = {str(Path(measure.__file__).parent)!r}; import _measure as m; "
    code += "print(m.run([sys.executable, '-c', 'x = bytearray(200_000_000)']).peak_mb)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 200 < float(done.stdout) < 230


def test_a_command_that_fails_ends_the_benchmark(measure, capfd):
    with pytest.raises(SystemExit, match="exit code 3"):
        measure.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])
    assert "the reason" in capfd.readouterr().err


def test_sides_take_turns_and_the_first_turn_does_not_count(measure):
    order = []

    def side(name, seconds):
        def run():
            order.append(name)
            # A machine that slows down threefold after the first turns: both sides feel it.
            return measure.Cost(seconds * (3 if len(order) > 4 else 1), 1.0, 1.0)

        return run

    versus = measure.interleave(side("ours", 2.0), side("peer", 1.0), repeats=3)
    assert order == ["ours", "peer"] * 4
    assert len(versus.ours) == len(versus.peer) == 3
    assert versus.ratio("seconds") == 2.0
    assert versus.to_dict()["ratio"] == {"seconds": 2.0, "cpu_seconds": 1.0, "peak_mb": 1.0}


def test_images_are_jpegs_of_the_size_asked_for(measure, tmp_path):
    paths = measure.images(tmp_path, 3, (20, 30))
    assert [decode(path).shape for path in paths] == [(20, 30, 3)] * 3
    assert len({path.read_bytes() for path in paths}) == 3
