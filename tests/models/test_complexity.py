from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model, get_spec, list_models
from models.complexity import complexity


@pytest.mark.parametrize("name", list_models())
def test_facts_of_the_registry(name):
    spec = get_spec(name)
    with torch.device("meta"):
        counted = complexity(create_model(name), spec.input_size)
    assert counted.parameters == spec.parameters
    assert counted.macs / 1e9 == pytest.approx(spec.gmacs, abs=0.0006)


def test_counts_of_one_convolution_and_one_product():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(4 * 4 * 6, 5))
    counted = complexity(model, (8, 12))
    assert counted.macs == (4 * 6) * 4 * 3 * 9 + 4 * 4 * 6 * 5
    assert counted.parameters == 4 * 3 * 9 + 4 + 4 * 4 * 6 * 5 + 5


def test_the_model_stays_as_it_is():
    model = create_model("mobilenet_v3_small")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    complexity(model, (32, 32))  # norms meet a single pixel here, which train mode refuses for one image
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
