from __future__ import annotations

import pytest
import torch
from torch import nn

from models import ModelError, create_model, get_spec, list_models
from models.settle import settle

NAMES = [name for name in list_models() if name.startswith("efficientnet_") and name != "efficientnet_v2_xl"]
# These are settled and compared at a small size, to save time.
LARGE = [name for name in NAMES if get_spec(name).parameters > 15e6]


def test_torchvision_has_eleven():
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_equals_torchvision(name, pair):
    """The same seed gives the same keys and weights, branches dropped in training, and outputs."""
    ours, theirs = networks = pair(name, num_classes=7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))

    side = 32 if name in LARGE else 64
    settle(ours, (side, side), batches=1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, side)
    with torch.no_grad():
        for mode in (False, True):
            logits = []
            for network in networks:
                torch.manual_seed(1)
                logits.append(network.train(mode)(images))
            assert logits[0].std() > 0.1
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5", "efficientnet_v2_s"])
def test_norms_are_torchvisions(name, pair):
    with torch.device("meta"):
        networks = pair(name)
    ours, theirs = ([(m.eps, m.momentum) for m in n.modules() if isinstance(m, nn.BatchNorm2d)] for n in networks)
    assert ours == theirs


def test_branches_are_dropped_in_training_only():
    model = create_model("efficientnet_b0", stochastic_depth=0.9, dropout=0.0)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))


def test_dropout_is_the_options():
    assert create_model("efficientnet_b0", dropout=0.5).classifier[0].p == 0.5


@pytest.mark.parametrize("options", [{"dropout": 1.5}, {"dropout": -0.1}, {"stochastic_depth": 1.0}])
def test_impossible_options_raise(options):
    with pytest.raises(ModelError, match="cannot be built so"):
        create_model("efficientnet_b0", **options)
