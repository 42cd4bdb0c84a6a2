"""Which GPUs there are, with and without a driver."""

import ctypes
import types

import pytest

from deploy import hardware


def driver(result=0):
    """A libcuda of two GPUs whose cuInit returns ``result``."""

    def store(pointer, value):
        pointer._obj.value = value
        return 0

    def name(buffer, size, device):
        buffer.value = f"GPU {device}".encode()
        return 0

    capability = {75: 8, 76: 9}
    return types.SimpleNamespace(
        cuInit=lambda flags: result,
        cuDeviceGetCount=lambda pointer: store(pointer, 2),
        cuDeviceGet=lambda pointer, ordinal: store(pointer, ordinal),
        cuDeviceGetName=name,
        cuDeviceTotalMem_v2=lambda pointer, device: store(pointer, 24 << 30),
        cuDeviceGetAttribute=lambda pointer, attribute, device: store(pointer, capability[attribute]),
        cuDriverGetVersion=lambda pointer: store(pointer, 13010),
    )


def test_describes_every_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_load", driver)
    monkeypatch.setattr(hardware, "_VERSION_FILE", tmp_path / "absent")
    first, second = hardware.devices()
    assert first == hardware.GpuInfo("GPU 0", "8.9", 24 << 30, "CUDA 13.1")
    assert second.name == "GPU 1"


def test_driver_version_where_the_kernel_tells_it(monkeypatch, tmp_path):
    (tmp_path / "version").write_text("580.65.06\n")
    monkeypatch.setattr(hardware, "_load", driver)
    monkeypatch.setattr(hardware, "_VERSION_FILE", tmp_path / "version")
    assert hardware.devices()[0].driver == "580.65.06"


@pytest.mark.parametrize("load", [lambda: None, lambda: driver(result=100)])
def test_no_driver_or_no_gpu(monkeypatch, load):
    monkeypatch.setattr(hardware, "_load", load)
    assert hardware.devices() == []


def test_missing_library(monkeypatch):
    def fail(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert hardware.devices() == []
