"""Which TensorRT is here and which is chosen."""

import sys
import types

import pytest

from deploy import hardware
from deploy.engine.flavours import available_flavours, choose_flavour, load_flavour, same_release
from deploy.errors import InputError, MachineError

GPU = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")


@pytest.fixture
def machine(monkeypatch):
    """Sets what is installed (name → version) and which GPUs there are."""

    def install(gpus=(), **versions):
        monkeypatch.setattr(hardware, "devices", lambda: list(gpus))
        for name in ("tensorrt", "tensorrt_rtx"):
            module = types.ModuleType(name)
            module.__version__ = versions.get(name)
            monkeypatch.setitem(sys.modules, name, module if name in versions else None)

    return install


def test_auto_takes_tensorrt_where_there_is_a_gpu(machine):
    machine([GPU], tensorrt="10.13.0.35", tensorrt_rtx="1.7.1.116")
    assert str(choose_flavour("auto")) == "TensorRT 10.13.0.35"


def test_auto_takes_rtx_where_there_is_no_gpu(machine):
    machine(tensorrt="10.13.0.35", tensorrt_rtx="1.7.1.116")
    assert choose_flavour("auto").name == "tensorrt_rtx"
    problems = {state.name: state.problem for state in available_flavours()}
    assert problems == {"tensorrt": "no NVIDIA GPU", "tensorrt_rtx": None}


def test_nothing_installed_names_every_way_out(machine):
    machine()
    with pytest.raises(MachineError) as caught:
        choose_flavour("auto")
    for text in ("'.[rtx]'", "'.[gpu]'", "--backend none"):
        assert text in caught.value.headline
    assert len(caught.value.details) == 2
    assert all(state.version is None and state.problem for state in available_flavours())


def test_tensorrt_without_a_gpu_is_refused(machine):
    machine(tensorrt="11.4.0.106")
    with pytest.raises(MachineError, match=r"cannot build here \(got no NVIDIA GPU"):
        choose_flavour("tensorrt")


def test_too_old(machine):
    machine([GPU], tensorrt="8.6.1")
    with pytest.raises(MachineError, match=r"too old \(got 8.6.1; expected 10.3 or newer\)"):
        load_flavour("tensorrt")


def test_broken_installation_reports_its_own_words(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MachineError, match=r"OSError: libnvinfer.so.10"):
        load_flavour("tensorrt")


def test_unknown_name():
    with pytest.raises(InputError, match="got openvino; expected tensorrt or tensorrt_rtx"):
        choose_flavour("openvino")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("10.3.0", "10.3.0.26", True), ("1.7.1.116", "1.7.1.116", True), ("10.3.0", "10.7.0", False)],
)
def test_same_release(one, other, same):
    assert same_release(one, other) is same
