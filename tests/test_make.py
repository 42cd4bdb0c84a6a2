"""The Makefile sets up what is missing, once, and leaves an environment of the user's alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*arguments, folder=ROOT):
    # Not what a make that runs these tests was given.
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "PYTHON")}
    done = subprocess.run(["make", *arguments], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fresh(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "examples/digits/digits.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_fresh_checkout_installs_first(fresh):
    planned = make("-n", "test", folder=fresh)
    assert planned.index("-m venv .venv") < planned.index("pip install") < planned.index("-m pytest")


def test_an_installed_checkout_installs_nothing(fresh):
    (fresh / ".venv").mkdir()
    (fresh / ".venv" / ".ready").touch()
    assert "pip" not in make("-n", "test", folder=fresh)


def test_a_changed_constraint_installs_again(fresh):
    (fresh / ".venv").mkdir()
    (fresh / ".venv" / ".ready").touch()
    later = (fresh / ".venv" / ".ready").stat().st_mtime + 10

    os.utime(fresh / "constraints.txt", (later, later))
    assert "pip install" in make("-n", "test", folder=fresh)


def test_a_given_python_is_used_as_it_is(fresh):
    planned = make("-n", "test", "lint", "demo", f"PYTHON={sys.executable}", folder=fresh)
    assert "pip" not in planned
    assert ".venv/" not in planned.replace(sys.executable, "")
    assert f"{sys.executable} -m pytest" in planned


def test_demo_does_no_work_twice(fresh):
    for name in (".fp32", ".fp16", ".int8", "mobilenet_v3_large.onnx", "yolov5n.onnx", "digits.onnx", ".scans"):
        (fresh / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / "demo" / name).touch()
    os.utime(fresh / "examples" / "digits" / "digits.safetensors", (0, 0))
    for stamp in (".fp32", ".fp16", ".int8"):
        (fresh / "demo" / stamp).touch()
    planned = make("-n", "demo", f"PYTHON={sys.executable}", folder=fresh)
    assert "export.py" not in planned
    assert "build_engine.py" not in planned
