"""An environment that holds the base dependencies and ONNX Runtime, and no PyTorch: what an edge device installs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import tomllib
from commands import REPOSITORY, Result, environment, exported, snapshot, write_images
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(wanted: list[str]) -> dict[str, metadata.Distribution]:
    """The distributions that pip would install for these requirements."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or []]
    return found


def link(distribution: metadata.Distribution, packages: Path) -> None:
    """Put a distribution's packages into ``packages`` as links."""
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        target, place = Path(str(distribution.locate_file(top))), packages / top
        if target.exists() and not place.exists():
            place.symlink_to(target)


class Bare:
    """The bare interpreter."""

    def __init__(self, root: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
        self._python = root / "bin" / "python"
        (packages,) = root.glob("lib/python*/site-packages")
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        self.distributions = closure([*project["dependencies"], *project["optional-dependencies"]["cpu"]])
        for distribution in self.distributions.values():
            link(distribution, packages)

    def __call__(self, *argv: object, cwd: Path) -> Result:
        command = [str(self._python), *map(str, argv)]
        env = environment(PYTHONPATH=str(REPOSITORY))
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
        return Result(done.returncode, done.stdout, done.stderr)

    def script(self, name: str, *argv: object, cwd: Path) -> Result:
        return self(REPOSITORY / f"{name}.py", *argv, cwd=cwd)

    def verb(self, *argv: object, cwd: Path) -> Result:
        return self("-m", "deploy", *argv, cwd=cwd)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``net.onnx``, exported where PyTorch is, and ``photos/``."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copy(exported(tmp_path_factory.getbasetemp()), folder / "net.onnx")
    write_images(folder / "photos", 9)
    return folder


@pytest.fixture(scope="module")
def precise(bare: Bare, here: Path) -> Result:
    """``net.fp16.onnx`` and ``net.int8.onnx``, made in the bare environment; the report of the second."""
    fp16 = bare.script("build_engine", "net.onnx", "--precision", "fp16", "--backend", "none", cwd=here)
    assert fp16.code == 0, fp16.err
    data = ("--calibration-data", "photos", "--backend", "none", "--json")
    int8 = bare.script("build_engine", "net.onnx", "--precision", "int8", *data, cwd=here)
    assert int8.code == 0, int8.err
    return int8


def test_there_is_no_pytorch(bare: Bare, here: Path):
    assert {"numpy", "onnxruntime", "onnx", "rich"} <= set(bare.distributions)
    assert not {"torch", "onnxscript", "safetensors", "tensorrt-rtx-cu13", "deploy-toolkit"} & set(bare.distributions)
    for package in ("torch", "torchvision", "onnxsim", "safetensors", "tensorrt_rtx"):
        result = bare("-c", f"import {package}", cwd=here)
        assert f"No module named '{package}'" in result.err


def test_infer(bare: Bare, here: Path, precise: Result):
    answers = {}
    for name in ("net.onnx", "net.fp16.onnx", "net.int8.onnx"):
        result = bare.script("infer", "--engine", name, "photos", "--top-k", 3, "--json", cwd=here)
        assert result.code == 0, result.err
        answers[name] = result.document
    assert answers["net.onnx"]["execution"].startswith("executed on CPU")
    assert answers["net.int8.onnx"]["execution"] == "simulated on CPU by the twin of the INT8 graph"
    first = [[image["predictions"][0]["index"] for image in answer["images"]] for answer in answers.values()]
    assert first[0] == first[1]
    assert len(first[2]) == 9


def test_verify(bare: Bare, here: Path, precise: Result):
    argv = ("verify", "net.onnx", "net.fp16.onnx", "net.int8.onnx", "--data", "photos", "--json")
    result = bare.verb(*argv, cwd=here)
    assert result.code == 0, result.err
    assert [verdict["passed"] for verdict in result.document["verdicts"]] == [True, True]
    assert precise.document["manifest"]["tools"].keys() >= {"onnx", "onnxruntime"}


def test_inspect_eval_and_doctor(bare: Bare, here: Path, precise: Result):
    inspected = bare.verb("inspect", "net.int8.onnx", cwd=here)
    assert (inspected.code, inspected.err) == (0, "")
    assert "QuantizeLinear" in inspected.out
    shutil.copytree(here / "photos", here / "classes" / "a")
    for name in "bcdefghij":
        (here / "classes" / name).mkdir()
    evaluated = bare.verb("eval", "net.onnx", "--data", "classes", "--json", cwd=here)
    assert evaluated.document[0]["images"] == 9
    timed = bare.verb("bench", "net.onnx", "--duration-s", "0.1", "--json", cwd=here)
    assert timed.document["results"][0]["queries"] >= 10
    findings = {finding["name"]: finding for finding in bare.verb("doctor", "--json", cwd=here).document}
    assert findings["torch"]["fix"] == "pip install '.[export]'"
    assert findings["run graphs (infer, verify, eval)"]["state"] == "ok"
    assert findings["make FP16 and INT8 graphs"]["state"] == "ok"
    assert findings["export models"]["state"] == "missing"


@pytest.mark.parametrize(
    "argv",
    [
        ["export", "--model", "mobilenet_v3_small"],
        ["export", "--list"],
        ["inspect", "mobilenet_v3_small"],
        ["verify", "mobilenet_v3_small", "net.onnx"],
    ],
)
def test_what_needs_pytorch_says_what_to_install(bare: Bare, here: Path, argv: list[str]):
    before = snapshot(here)
    result = bare.verb(*argv, "--json", cwd=here)
    assert result.code == 3
    assert result.error == "this command needs torch, which is not installed. pip install '.[export]'"
    assert result.document["exit_code"] == 3
    assert snapshot(here) == before


def test_a_build_says_which_builders_there_are(bare: Bare, here: Path):
    result = bare.script("build_engine", "net.onnx", "--precision", "fp32", cwd=here)
    assert result.code == 3
    assert "no TensorRT can build on this machine" in result.error
    assert "pip install '.[rtx]'" in result.error


HELP = [["export.py"], ["build_engine.py"], ["infer.py"], ["-m", "deploy"]]


def cpu_seconds(command: list[str], cwd: Path) -> float:
    """Of one run, by user and system: what else the machine does is left out."""
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, env=environment()) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("target", HELP, ids=" ".join)
def test_help_is_there_at_once(target: list[str]):
    runs = [cpu_seconds([sys.executable, *target, "--help"], REPOSITORY) for _ in range(5)]
    assert statistics.median(runs) <= 0.3


@pytest.mark.parametrize("target", HELP, ids=" ".join)
def test_help_loads_no_package(target: list[str]):
    command = [sys.executable, "-X", "importtime", *target, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment(), check=True)
    loaded = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "deploy" in loaded
    assert not loaded & {"numpy", "onnx", "onnxruntime", "torch", "rich", "PIL"}
    assert done.stdout.startswith("usage: ")
