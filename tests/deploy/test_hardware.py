"""What the driver's libraries tell, played by objects that store answers where they are asked to."""

import types

import pytest

from deploy import hardware

FREE = 5 << 30


def stored(answer, code=0):
    """A function of the driver that stores one int through its first argument."""

    def call(place, *given):
        place._obj.value = answer
        return code

    return call


@pytest.fixture
def driver(monkeypatch):
    """``libcuda`` of CUDA 13.0 and an NVML that counts its calls."""

    def place(text, size, device):
        text.value = b"0000:01:00.0"
        return 0

    def handle(text, device):
        device._obj.value = 7
        return 0 if text.value == b"0000:01:00.0" else 1

    def memory(device, answer):
        answer._obj.free = FREE
        return 0 if device.value == 7 else 1

    cuda = types.SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDriverGetVersion=stored(13000),
        cuDeviceGet=stored(0),
        cuDeviceGetPCIBusId=place,
    )
    nvml = types.SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlShutdown=lambda: 0,
        nvmlDeviceGetHandleByPciBusId_v2=handle,
        nvmlDeviceGetMemoryInfo=memory,
    )
    monkeypatch.setattr(hardware, "_load", lambda: cuda)
    monkeypatch.setattr(hardware, "_load_nvml", lambda: nvml)
    return types.SimpleNamespace(cuda=cuda, nvml=nvml)


def test_cuda_of_the_driver_and_free_memory(driver):
    assert hardware.driver_cuda() == (13, 0)
    assert hardware.free_memory() == FREE


def test_what_nvml_does_not_tell_is_unknown(driver):
    driver.nvml.nvmlDeviceGetMemoryInfo = lambda device, answer: 3  # NVML_ERROR_NOT_SUPPORTED, as on a Jetson
    assert hardware.free_memory() is None


def test_without_a_driver(monkeypatch):
    monkeypatch.setattr(hardware, "_load", lambda: None)
    assert hardware.driver_cuda() is None
    assert hardware.free_memory() is None
