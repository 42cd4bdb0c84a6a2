from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model
from models.settle import settle

NAMES = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")


@pytest.mark.parametrize("name", NAMES)
def test_equals_torchvision(name, pair):
    """The same seed gives the same keys and weights; fitted weights give the same outputs."""
    ours, theirs = pair(name, num_classes=7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))

    settle(ours.eval(), (64, 64))
    theirs.eval().load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits = ours(images)
        assert logits.abs().max() > 0.1
        torch.testing.assert_close(logits, theirs(images), rtol=1e-5, atol=1e-5)


def test_trains_as_torchvision(pair):
    """One step in train mode moves the weights and the norms' statistics alike."""
    networks = pair("shufflenet_v2_x0_5", num_classes=5)
    images, classes = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    for network in networks:
        network.train()
        nn.functional.cross_entropy(network(images), classes).backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()
    ours, theirs = (network.state_dict() for network in networks)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5)


def test_half_of_the_channels_pass_a_unit_unchanged():
    unit = create_model("shufflenet_v2_x0_5").stage2[1].eval()
    x = torch.randn(1, 48, 4, 4)
    with torch.inference_mode():
        assert torch.equal(unit(x)[:, ::2], x[:, :24])
