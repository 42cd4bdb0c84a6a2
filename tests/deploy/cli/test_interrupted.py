"""Interrupts and full disks: the folder is as it was before."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import REPOSITORY, SMALL, Cli, environment, snapshot

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SAID = "error: interrupted; no file was left half-written\n"
ARRAYS = ("--calibration-data", "arrays.npz")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images that calibration takes seconds."""
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    np.savez(path, input=np.random.default_rng(0).standard_normal((500, 3, 64, 64)).astype(np.float32))
    return path


@pytest.fixture
def deep(here: Path) -> str:
    """``deep.onnx``: so many layers that its engine takes seconds to build."""
    model = onnx.load("net.onnx")
    graph = model.graph
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 4
    first = graph.node[0]
    graph.initializer.append(onnx.numpy_helper.from_array(kernel, "kernel"))
    source = "input"
    for index in range(400):
        conv = onnx.helper.make_node("Conv", [source, "kernel"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4)
        sine = onnx.helper.make_node("Sin", [f"c{index}"], [f"s{index}"], name=f"sine{index}")
        graph.node.insert(2 * index, conv)
        graph.node.insert(2 * index + 1, sine)
        source = f"s{index}"
    first.input[0] = source
    onnx.save(model, "deep.onnx")
    return "deep.onnx"


def interrupted(how: signal.Signals, after: str, name: str, *argv: object, seconds: float = 0) -> tuple[int, str]:
    """Start a script, send ``how`` some seconds after it has said ``after``; its exit code and the rest it says."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / f"{name}.py"), *map(str, argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stderr
    with process.stderr:
        for line in process.stderr:
            if line.startswith(after):
                time.sleep(seconds)
                process.send_signal(how)
                break
        rest = process.stderr.read()
    return process.wait(60), rest


@pytest.mark.parametrize("how", SIGNALS)
def test_during_export(empty: Path, how: signal.Signals):
    assert interrupted(how, "exporting", "export", *SMALL) == (
        130,
        "error: interrupted; no file was left half-written\n",
    )
    assert snapshot(empty) == {}


@pytest.mark.parametrize("how", SIGNALS)
def test_during_calibration(here: Path, arrays: Path, how: signal.Signals):
    Path("arrays.npz").symlink_to(arrays)
    before = snapshot(here)
    code, rest = interrupted(how, "calibrating", "build_engine", "net.onnx", "--precision", "int8", *ARRAYS)
    assert (code, rest) == (130, "error: interrupted; no file was left half-written\n")
    assert snapshot(here) == before


@pytest.mark.parametrize(("how", "seconds"), [(signal.SIGINT, 0.03), (signal.SIGTERM, 0), (signal.SIGINT, 0.3)])
def test_during_the_build(here: Path, deep: str, how: signal.Signals, seconds: float):
    """In the parser, too, whose log comes back into Python."""
    before = snapshot(here)
    argv = (deep, "--precision", "fp16", "--backend", "tensorrt_rtx")
    code, rest = interrupted(how, "building", "build_engine", *argv, seconds=seconds)
    assert (code, rest.splitlines()[-1:]) == (130, [SAID.strip()])
    assert snapshot(here) == before


def test_ranges_survive_an_interrupted_build(cli: Cli, here: Path, deep: str):
    """Calibration is the long part: what is complete is kept, and the next try starts from it."""
    before = snapshot(here)
    argv = [deep, "--precision", "int8", "--calibration-data", "photos"]
    code, _ = interrupted(signal.SIGINT, "building", "build_engine", *argv)
    assert code == 130
    assert set(snapshot(here)) - set(before) == {"deep.int8.calib.json"}
    assert json.loads(Path("deep.int8.calib.json").read_text())["images"] == 12
    assert "reusing the ranges in deep.int8.calib.json" in cli.done("build", *argv, "--backend", "none").err


def test_an_interrupted_search_loses_itself_alone(cli: Cli, here: Path, arrays: Path):
    Path("arrays.npz").symlink_to(arrays)
    before = snapshot(here)
    argv = ["net.onnx", "--precision", "int8", *ARRAYS, "--backend", "none"]
    code, rest = interrupted(signal.SIGINT, "counting", "build_engine", *argv, "--max-drop", "0.2")
    assert (code, rest.splitlines()[-1:]) == (130, [SAID.strip()])
    assert set(snapshot(here)) - set(before) == {"net.int8.calib.json"}
    assert "reusing the ranges in net.int8.calib.json" in cli.done("build", *argv).err


def no_space(monkeypatch: pytest.MonkeyPatch, when: Callable[[str], bool]) -> None:
    """The disk is full for files whose name fulfils ``when``."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if when(str(Path(f"/proc/self/fd/{handle}").readlink())):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)


def test_a_full_disk_at_export(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    no_space(monkeypatch, lambda name: ".onnx" in name)
    result = cli("export", *SMALL, "--no-simplify")
    assert result.code == 3
    assert result.error.startswith("no space left to write mobilenet_v3_small.onnx. Free disk space or choose another")
    assert snapshot(empty) == {}


@pytest.mark.parametrize("full", [".fp16.onnx.", ".plan.", ".plan.json."])
def test_a_full_disk_at_build_writes_all_or_nothing(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, full: str):
    """Whichever of the three files no longer fits."""
    no_space(monkeypatch, lambda name: full in name and not (full == ".plan." and ".json." in name))
    error = cli.refused(3, "build", "net.onnx", "--precision", "fp16")
    assert error.startswith(f"no space left to write net.fp16{'' if 'onnx' in full else '.rtx'}")


def limited_to(size: int) -> Callable[[], None]:
    """For a child process: no file may grow beyond ``size`` bytes, which the system itself enforces."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize(("size", "name"), [(100_000, "net.fp16.onnx"), (1_000_000, "net.fp16.rtx.plan")])
def test_a_file_that_outgrows_the_systems_limit(here: Path, size: int, name: str):
    before = snapshot(here)
    command = [sys.executable, str(REPOSITORY / "build_engine.py"), "net.onnx", "--precision", "fp16"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), preexec_fn=limited_to(size))
    assert done.returncode == 2
    assert f"error: cannot write {name} (got file too large). Choose a writable path." in done.stderr
    assert snapshot(here) == before
