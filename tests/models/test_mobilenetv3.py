from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from models import ModelError, create_model
from models.layers import make_divisible
from models.settle import settle

NAMES = ("mobilenet_v3_large", "mobilenet_v3_small")
VARIANTS = list(itertools.product(NAMES, (0.5, 0.75, 1.0, 1.25), (False, True)))


@pytest.mark.parametrize(("name", "width_mult", "reduced_tail"), VARIANTS)
def test_equals_torchvision(name, width_mult, reduced_tail, pair):
    """The same seed gives the same keys and weights; fitted weights give the same outputs."""
    options = {"width_mult": width_mult, "reduced_tail": reduced_tail, "num_classes": 7}
    ours, theirs = pair(name, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))

    settle(ours.eval(), (64, 64))
    theirs.eval().load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits = ours(images)
        assert logits.abs().max() > 0.1
        torch.testing.assert_close(logits, theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_trains_as_torchvision(name, pair):
    """One step in train mode moves the weights and the norms' statistics alike."""
    networks = pair(name, num_classes=5, dropout=0.0)
    images, classes = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    for network in networks:
        network.train()
        nn.functional.cross_entropy(network(images), classes).backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()
    ours, theirs = (network.state_dict() for network in networks)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_a_depthwise_convolution(name):
    for block in create_model(name).features[1:-1]:
        grouped = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
        assert len(grouped) == 1


def test_dropout_is_the_options():
    assert create_model("mobilenet_v3_small", dropout=0.5).classifier[2].p == 0.5


@pytest.mark.parametrize("options", [{"width_mult": 0.0}, {"width_mult": -1.0}, {"dropout": 1.5}])
def test_impossible_options_raise(options):
    with pytest.raises(ModelError, match="cannot be built so"):
        create_model("mobilenet_v3_small", **options)


def test_channels_round_as_torchvisions(torchvision_models):
    from torchvision.models._utils import _make_divisible

    for tenth in range(1, 5000):
        assert make_divisible(tenth / 10) == _make_divisible(tenth / 10, 8)
