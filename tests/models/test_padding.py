from __future__ import annotations

import pytest
import torch
from torch import nn

from models import ModelError, create_model
from models.padding import Conv2d


def epsilons(model):
    return {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 12), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_is_tensorflows(kernel, stride, size, torchvision_models):
    from timm.layers import Conv2dSame

    theirs = Conv2dSame(4, 6, kernel, stride, groups=2)
    ours = Conv2d(4, 6, kernel, stride, kernel // 2, groups=2)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 4, *size)
    symmetric = ours(images)
    ours.same = True
    assert torch.equal(ours(images), theirs(images))
    shifted = stride == 2 and any((side + kernel) % 2 for side in size) and kernel > 1
    assert torch.equal(ours(images), symmetric) != shifted


@pytest.mark.parametrize(("name", "own"), [("efficientnet_b0", 1e-5), ("mobilenet_v3_small", 1e-3)])
def test_it_can_be_changed_afterwards(name, own):
    torch.manual_seed(0)
    model, images = create_model(name).eval(), torch.randn(1, 3, 32, 32)
    keys = list(model.state_dict())
    with torch.inference_mode():
        symmetric = model(images)
        model.set_padding("same")
        assert (list(model.state_dict()), epsilons(model)) == (keys, {1e-3})
        assert not torch.allclose(model(images), symmetric, rtol=1e-3, atol=0)
        model.set_padding("symmetric")
        assert epsilons(model) == {own}
        assert torch.equal(model(images), symmetric)


@pytest.mark.parametrize(
    ("name", "padding", "same"),
    [
        ("efficientnet_b0", "auto", False),
        ("efficientnet_b0", "same", True),
        ("efficientnet_v2_xl", "auto", True),
        ("efficientnet_v2_xl", "symmetric", False),
        ("mobilenet_v3_large", "auto", False),
        ("mobilenet_v3_large", "same", True),
    ],
)
def test_the_option(name, padding, same):
    with torch.device("meta"):
        model = create_model(name, padding=padding)
    kinds = {m.same for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)}
    assert kinds == {same}


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small"])
def test_an_unknown_padding_lists_those_there_are(name):
    with pytest.raises(ModelError, match="no such padding .got valid; expected auto, symmetric, same"):
        create_model(name, padding="valid")
