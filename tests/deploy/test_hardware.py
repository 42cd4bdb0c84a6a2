"""The processor, and where GPUs are plugged in, through a stand-in for the driver's library."""

from __future__ import annotations

import types

import pytest

from deploy import hardware


def driver(initialised: int = 0, known: int = 0) -> types.SimpleNamespace:
    def get(pointer, ordinal):
        pointer._obj.value = 10 + ordinal
        return 0

    def place(text, length, device):
        text.value = f"0000:{device}:00.0".encode()[: length - 1]
        return known

    return types.SimpleNamespace(cuInit=lambda flags: initialised, cuDeviceGet=get, cuDeviceGetPCIBusId=place)


def test_where_a_gpu_is_plugged_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hardware, "_load", driver)
    assert hardware.pci_bus_id() == b"0000:10:00.0"
    assert hardware.pci_bus_id(1) == b"0000:11:00.0"


@pytest.mark.parametrize("library", [None, driver(initialised=100), driver(known=101)])
def test_no_gpu_is_plugged_in_nowhere(monkeypatch: pytest.MonkeyPatch, library):
    monkeypatch.setattr(hardware, "_load", lambda: library)
    assert hardware.pci_bus_id() is None


def test_the_processor_and_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763\n\nmodel name\t: AMD EPYC 7763\n")
    monkeypatch.setattr(hardware, "_CPU_FILE", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert hardware.processor() == "AMD EPYC 7763, 2 cores"
    monkeypatch.setattr(hardware, "_CPU_FILE", tmp_path / "absent")
    assert hardware.processor().endswith(", 2 cores")
