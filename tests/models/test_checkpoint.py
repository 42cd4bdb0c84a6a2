from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import WeightsError
from models.checkpoint import read_state_dict

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


def check(path, entry=None):
    state, found = read_state_dict(path)
    assert found == entry
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
def test_a_bare_state_dict(tmp_path, name):
    torch.save(STATE, tmp_path / name)
    check(tmp_path / name)


def test_the_format_before_archives(tmp_path):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    check(tmp_path / "w.pth")


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    check(tmp_path / "w.safetensors")


@pytest.mark.parametrize("entry", ["state_dict", "model", "ema", "model_state_dict", "state_dict_ema", "model_ema"])
def test_under_an_entry(tmp_path, entry):
    torch.save({"epoch": 3, entry: STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", entry)


def test_averaged_weights_come_first(tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}, "model_ema": STATE}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", "model_ema")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "w.pth")
    check(tmp_path / "w.pth")


def test_weights_averaged_by_pytorch(tmp_path):
    linear = nn.Linear(3, 2)
    torch.save(torch.optim.swa_utils.AveragedModel(linear).state_dict(), tmp_path / "w.pth")
    state, _ = read_state_dict(tmp_path / "w.pth")
    assert torch.equal(state["weight"], linear.weight)
    assert state.keys() == {"weight", "bias"}


def test_a_prefix_of_some_names_only_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")[0].keys() == {"module.a", "b"}


@pytest.mark.parametrize("content", [nn.Linear(3, 2), {"model": nn.Linear(3, 2)}], ids=["module", "in a dictionary"])
def test_a_pickled_module_is_refused_with_the_line_that_converts_it(tmp_path, content):
    path = tmp_path / "it's mine.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="would run code from the file") as caught:
        read_state_dict(path)
    command = shlex.split(caught.value.details[0])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    state, _ = read_state_dict(tmp_path / "it's mine.state_dict.pth")
    assert state["weight"].shape == (2, 3)


# What a detector's training script saves: modules in half precision, of classes found where it was trained only.
_TRAINING = """
import sys, torch, torch.nn as nn
class Detector(nn.Linear):
    pass
def save(path, averaged):
    model, ema = Detector(3, 2).half(), Detector(3, 2).half()
    nn.init.constant_(model.weight, 0.5)
    nn.init.constant_(ema.weight, 0.25)
    torch.save({"epoch": -1, "model": model, "ema": ema if averaged else None, "optimizer": None, "updates": 9}, path)
"""


@pytest.mark.parametrize(("averaged", "weight"), [(False, 0.5), (True, 0.25)], ids=["without ema", "with ema"])
def test_a_training_script_s_checkpoint_is_refused_with_the_line_that_converts_it(tmp_path, averaged, weight):
    (tmp_path / "training_code.py").write_text(_TRAINING)
    save = f"import training_code; training_code.save('last.pt', {averaged})"
    subprocess.run([sys.executable, "-c", save], check=True, timeout=60, cwd=tmp_path)
    with pytest.raises(WeightsError, match="would run code from the file") as caught:
        read_state_dict(tmp_path / "last.pt")
    command = shlex.split(caught.value.details[0])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60, cwd=tmp_path)
    state, _ = read_state_dict(tmp_path / "last.state_dict.pth")
    assert torch.equal(state["weight"], torch.full((2, 3), weight))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": STATE, "bomb": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="would run code"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_a_scripted_module_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(nn.Linear(3, 2)).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="would run code"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("kept", [1, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "safetensors"])
def test_a_truncated_file(tmp_path, kind, kept):
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "pth")
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept >= 1 else int(len(data) * kept)])
    with pytest.raises(WeightsError, match=r"cut short or no checkpoint|no sound safetensors"):
        read_state_dict(path)


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x08\x01onnx", b"PK\x03\x04", bytes(range(256))])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w"])
def test_a_file_of_another_kind(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError, match=r"cut short or no checkpoint|no sound safetensors"):
        read_state_dict(tmp_path / name)


def test_an_empty_file(tmp_path):
    (tmp_path / "w.pth").touch()
    with pytest.raises(WeightsError, match="is empty"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, [torch.zeros(1)], torch.zeros(1), {"model": {"a": 1}}])
def test_no_state_dict_in_it(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state_dict"):
        read_state_dict(tmp_path / "w.pth")
