"""NVML's counters, through a stand-in for its library."""

from __future__ import annotations

import ctypes
import threading
import time

import pytest

from deploy.bench import counters as module
from deploy.bench.counters import GpuCounters, GpuUse, open_counters

NOT_SUPPORTED = 3


class Nvml:
    """The functions that are called, with the types that nvml.h gives their results."""

    def __init__(self, energy=True, device=0):
        self.started, self._energy, self._device = time.perf_counter(), energy, device

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, place, handle):
        assert place == b"0000:01:00.0"
        handle._obj.value = 7
        return self._device

    def nvmlDeviceGetMemoryInfo(self, device, memory):
        assert ctypes.sizeof(memory._obj) == 24
        memory._obj.total, memory._obj.free, memory._obj.used = 24 << 30, 20 << 30, 4 << 30
        return self._ok(device)

    def nvmlDeviceGetTotalEnergyConsumption(self, device, millijoules):
        assert ctypes.sizeof(millijoules._obj) == 8
        millijoules._obj.value = int(1e3 * 200 * (time.perf_counter() - self.started))  # 200 W
        return self._ok(device) if self._energy else NOT_SUPPORTED

    def nvmlDeviceGetPowerUsage(self, device, milliwatts):
        assert ctypes.sizeof(milliwatts._obj) == 4
        milliwatts._obj.value = 150_000
        return self._ok(device)

    def nvmlDeviceGetClockInfo(self, device, kind, megahertz):
        assert kind == 1  # NVML_CLOCK_SM
        megahertz._obj.value = 1980
        return self._ok(device)

    def _ok(self, device):
        assert device.value == 7
        return 0


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setattr(module, "pci_bus_id", lambda ordinal: b"0000:01:00.0")
    monkeypatch.setattr(module, "_load", lambda: library)
    return library


def test_units(nvml):
    counters = open_counters()
    assert counters.memory_used() == 4 << 30
    assert counters.power() == 150.0
    assert counters.clock() == 1980
    nvml.started = time.perf_counter() - 10
    assert counters.energy() == pytest.approx(2000, rel=0.01)


def test_where_there_is_none(monkeypatch, nvml):
    nvml._device = 6  # NVML_ERROR_NOT_FOUND
    assert open_counters() is None
    monkeypatch.setattr(module, "_load", lambda: None)
    assert open_counters() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "pci_bus_id", lambda ordinal: None)
    assert open_counters() is None


def test_functions_that_a_driver_lacks_answer_nothing():
    counters = GpuCounters(object(), ctypes.c_void_p(7))
    assert (counters.memory_used(), counters.energy(), counters.power(), counters.clock()) == (None,) * 4


def test_power_by_the_energy_counter(nvml):
    use, counters = GpuUse(), open_counters()
    for _ in range(2):
        with use.during(counters):
            time.sleep(0.55)
        time.sleep(0.05)  # between turns: does not count
    assert use.seconds == pytest.approx(1.1, abs=0.08)
    assert use.power() == pytest.approx(200, rel=0.05)
    assert use.clock_range() == (1980, 1980)
    assert 2 <= len(use.clocks) <= 4, "five times a second at most"
    assert use.watts == [], "not asked where energy is counted"
    assert all(thread.name != "nvml" for thread in threading.enumerate())


def test_no_power_of_less_than_a_second(nvml):
    use, counters = GpuUse(), open_counters()
    for _ in range(2):
        with use.during(counters):
            time.sleep(0.3)
    assert use.joules > 0
    assert use.power() is None


def test_power_by_samples_where_energy_is_not_counted(nvml):
    nvml._energy = False
    use = GpuUse()
    with use.during(open_counters()):
        time.sleep(1.5)
    assert use.power() == 150.0
    assert 1 <= len(use.watts) <= 3, "not those of the first second"


def test_no_power_by_samples_of_short_turns(nvml):
    nvml._energy = False
    use, counters = GpuUse(), open_counters()
    for _ in range(4):
        with use.during(counters):
            time.sleep(0.3)
    assert use.seconds > 1
    assert use.power() is None


def test_no_counters_no_use():
    use = GpuUse()
    with use.during(None):
        pass
    assert use.power() is None
    assert use.clock_range() is None


def test_an_error_in_a_turn_ends_the_sampling(nvml):
    with pytest.raises(ZeroDivisionError), GpuUse().during(open_counters()):
        raise ZeroDivisionError
    assert all(thread.name != "nvml" for thread in threading.enumerate())
