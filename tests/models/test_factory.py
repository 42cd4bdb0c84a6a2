"""Networks that a function of the user's returns."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch

from models import ModelError, Transform
from models.resolve import resolve

NET = """
    from dataclasses import dataclass
    from torch import nn
    from parts import Head
    from models.registry import Transform

    @dataclass
    class Config:
        width: int = 4

    class Net(nn.Module):
        def __init__(self, num_classes=5, width=4):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, width, 3), Head(width, num_classes)
        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    def make(num_classes=5, width=4):
        return Net(num_classes, width)

    def prepared():
        net = Net()
        net.transform = Transform(40, (32, 48), "bicubic")
        return net

    def configured():
        net = Net()
        net.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.5,) * 3, "crop_mode": "squash"}
        return net

    def bad():
        raise RuntimeError("no data here\\nsecond line")

    def number():
        return 7

    instance = Net()
    text = "not callable"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    (tmp_path / "parts.py").write_text("from torch import nn\nHead = nn.Linear\n")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    (tmp_path / "pair.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            class Pair(nn.Module):
                def forward(self, image, ids):
                    return image.mean((1, 2, 3)) + ids

            def pair(examples=None):
                net = Pair()
                net.example_inputs = {"ids": torch.zeros(2, dtype=torch.int64), "image": torch.zeros(2, 3, 8, 8)}
                return net

            def wrong():
                net = Pair()
                net.example_inputs = (torch.zeros(2, 3, 8, 8),)
                return net
        """)
    )
    monkeypatch.chdir(tmp_path)
    loaded = set(sys.modules)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


def made(name, num_classes=None, image_size=None, **options):
    return resolve(name, num_classes, image_size, options)


@pytest.mark.parametrize("source", ["net.py", "net", "./net.py"])
def test_a_file_or_a_module_of_the_current_folder(folder, source):
    found = made(f"{source}:make", num_classes=7, image_size=(32, 64), width=6)
    assert found.module.head.weight.shape == (7, 6)
    assert found.external
    assert found.has_weights
    assert found.spec.transform == Transform(37, (32, 64))
    (note,) = found.notes
    assert note.startswith(f"{source}:make does not say how images are prepared for it: assuming resize 37, crop 32x64")


def test_a_class_and_an_instance_serve_too(folder):
    assert made("net.py:Net", image_size=(32, 32), width=8).module.body.out_channels == 8
    assert type(made("net.py:instance", image_size=(32, 32)).module).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("net.py:prepared", Transform(40, (32, 48), "bicubic")),
        ("net.py:configured", Transform(32, (32, 32), "bicubic", (0.5,) * 3, mode="squash")),
    ],
)
def test_the_networks_own_preprocessing(folder, name, transform):
    found = made(name)
    assert (found.spec.transform, found.notes) == (transform, ())


def test_torchvisions_presets_are_understood(folder):
    import torchvision_operators  # noqa: F401 - before torchvision
    from torchvision.transforms._presets import ImageClassification

    (folder / "preset.py").write_text(
        "import net\nfrom torchvision.transforms._presets import ImageClassification\n"
        "def make():\n    made = net.Net()\n"
        "    made.transform = ImageClassification(crop_size=64, resize_size=70)\n    return made\n"
    )
    assert ImageClassification(crop_size=64).crop_size == [64]
    assert made("preset.py:make").spec.transform == Transform(70, (64, 64))


def test_other_inputs_are_named_by_the_forward(folder):
    found = made("pair.py:pair")
    assert list(found.examples) == ["image", "ids"]
    assert found.examples["ids"].dtype is torch.int64
    assert not found.takes_images


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.py:mak", r"net.py has no function 'mak' \(got nothing of that name; expected .*make"),
        ("net.py:text", r"net.py has no function 'text' \(got str"),
        ("missing.py:make", "there is no file missing.py"),
        ("no_such_package:make", r"cannot import no_such_package \(got no module named no_such_package\). pip install"),
        ("broken.py:make", r"broken.py failed \(got ModuleNotFoundError: No module named 'nothing_like_this'\)"),
        ("net.py:bad", r"net.py:bad failed \(got RuntimeError: no data here\)"),
        ("net.py:number", r"net.py:number returned no network \(got int; expected a torch.nn.Module\)"),
        ("net.py:make", "net.py:make does not say which images it takes. Give --image-size"),
        ("pair.py:wrong", "example_inputs of Pair are not what its forward takes"),
        (":make", r"cannot read the model's name \(got :make"),
        ("net.py:", r"cannot read the model's name \(got net.py:"),
    ],
)
def test_what_cannot_be_used(folder, name, said):
    with pytest.raises(ModelError, match=said):
        made(name)


def test_an_option_it_does_not_take(folder):
    with pytest.raises(ModelError, match="net.py:make failed .*unexpected keyword argument 'depth'"):
        made("net.py:make", image_size=(32, 32), depth=3)
