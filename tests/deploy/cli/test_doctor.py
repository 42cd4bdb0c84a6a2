"""The verb doctor, on machines that are played."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from commands import Cli

from deploy.hardware import GpuInfo


class Doctor:
    """``doctor``, its findings by name."""

    def __init__(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cli, self._monkeypatch = cli, monkeypatch
        self._versions = {"onnxruntime": "1.30", "onnxruntime-gpu": None}

    def install(self, **versions: str | None) -> None:
        self._versions |= {name.replace("_", "-"): version for name, version in versions.items()}

    def __call__(self) -> dict[str, dict[str, str]]:
        real = metadata.version

        def version(name: str) -> str:
            found = self._versions.get(name, "") if name in self._versions else real(name)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        self._monkeypatch.setattr("importlib.metadata.version", version)
        return {finding["name"]: finding for finding in self._cli.done("doctor", "--json").document}


@pytest.fixture
def doctor(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    for place in ("deploy.hardware", "deploy.workflows.doctor"):
        monkeypatch.setattr(f"{place}.devices", list)
    return Doctor(cli, monkeypatch)


def test_doctor_without_a_gpu(doctor: Doctor):
    found = doctor()
    assert found["NVIDIA GPU"]["state"] == "missing"
    assert found["run graphs (infer, verify, eval)"]["state"] == "ok"
    assert found["run engines"]["state"] == "missing"
    assert "NVIDIA GPU" in found["run engines"]["found"]
    assert found["TensorRT"]["state"] == "missing"


def test_doctor_with_a_gpu(doctor: Doctor, monkeypatch: pytest.MonkeyPatch):
    gpu = GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")
    for place in ("deploy.hardware", "deploy.workflows.doctor"):
        monkeypatch.setattr(f"{place}.devices", lambda: [gpu])
    found = doctor()
    assert found["NVIDIA GPU"]["found"] == "NVIDIA L4: compute capability 8.9, 24 GiB, driver 580.65"
    assert found["onnxruntime"]["fix"] == "for CUDA: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "PyPI has no aarch64 wheel" in doctor()["onnxruntime"]["fix"]


def test_doctor_with_both_onnxruntimes(doctor: Doctor):
    doctor.install(onnxruntime_gpu="1.30")
    found = doctor()
    assert found["onnxruntime"]["state"] == "problem"
    assert found["onnxruntime"]["found"] == "both onnxruntime and onnxruntime-gpu: they overwrite each other"
    assert found["onnxruntime"]["fix"].endswith("&& pip install onnxruntime-gpu")
    assert found["run graphs (infer, verify, eval)"]["state"] == "missing"


def test_doctor_without_packages(doctor: Doctor, cli: Cli):
    doctor.install(onnxruntime=None, torch=None)
    found = doctor()
    assert found["torch"]["fix"] == "pip install '.[export]'"
    assert found["export models"]["found"] == "lacks onnxruntime, torch"
    table = cli.done("doctor").out
    assert "lacks onnxruntime, torch" in table


def test_doctor_with_a_broken_package(doctor: Doctor, monkeypatch: pytest.MonkeyPatch):
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name == "onnx_ir":
            raise OSError("libfoo.so.1: cannot open shared object file")
        return real(name, package)

    monkeypatch.setattr("importlib.import_module", import_module)
    found = doctor()["onnx-ir"]
    assert found["state"] == "problem"
    assert found["found"].endswith("does not import: libfoo.so.1: cannot open shared object file")
    assert found["fix"] == "pip install deploy-toolkit --force-reinstall"
