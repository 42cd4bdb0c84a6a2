from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model, get_spec
from models.complexity import complexity

# Parameters with the classifier's bias, and millions of multiply-accumulates at 224x224 where they are published.
PUBLISHED = {
    "shufflenet_v1_x0_5_g3": (718_324, 37.6),
    "shufflenet_v1_x1_0_g3": (1_865_728, 137),
    "shufflenet_v1_x1_5_g3": (3_442_168, 292),
    "shufflenet_v1_x2_0_g3": (5_450_776, 524),
    "shufflenet_v1_x0_5_g8": (1_011_448, None),
    "shufflenet_v1_x1_0_g8": (2_434_768, None),
    "shufflenet_v1_x1_5_g8": (4_269_952, None),
    "shufflenet_v1_x2_0_g8": (6_522_232, None),
}
NAMES = list(PUBLISHED)


@pytest.fixture(params=NAMES)
def network(request):
    """Each network on the meta device."""
    with torch.device("meta"):
        yield create_model(request.param)


def units(network):
    return [unit for stage in (network.stage2, network.stage3, network.stage4) for unit in stage]


def dealt(x, groups):
    """Channels dealt out: the first of each group, then the second of each, and so on (figure 1c)."""
    size = x.shape[1] // groups
    return x[:, [group * size + place for place in range(size) for group in range(groups)]]


@pytest.mark.parametrize("name", NAMES)
def test_size_and_arithmetic_are_those_published(name):
    parameters, millions = PUBLISHED[name]
    with torch.device("meta"):
        counted = complexity(create_model(name), (224, 224))
    assert counted.parameters == parameters
    if millions is not None:
        assert counted.macs / 1e6 == pytest.approx(millions, rel=0.01)


def test_stages_have_their_units_and_strides(network):
    assert [len(stage) for stage in (network.stage2, network.stage3, network.stage4)] == [4, 8, 4]
    strides = [unit.depthwise[0].stride[0] for unit in units(network)]
    assert strides == [2, 1, 1, 1, 2, *[1] * 7, 2, 1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_every_1x1_but_the_first_is_grouped(name):
    with torch.device("meta"):
        network = create_model(name)
    groups = int(name[-1])
    assert [unit.reduce[0].groups for unit in units(network)] == [1, *[groups] * 15]
    assert {unit.expand[0].groups for unit in units(network)} == {groups}


def test_a_unit_narrows_to_a_quarter_and_filters_each_channel(network):
    for unit in units(network):
        inputs = unit.reduce[0].in_channels
        depthwise, outputs = unit.depthwise[0], unit.expand[0].out_channels
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
        assert 4 * depthwise.in_channels == outputs + (inputs if depthwise.stride[0] == 2 else 0)
        # Two ReLUs a unit: none behind the depthwise convolution.
        assert not any(isinstance(module, nn.ReLU) for module in (*unit.depthwise, *unit.expand))


def test_stride_2_concatenates_the_average_pooled_input():
    unit = create_model("shufflenet_v1_x0_5_g3").stage3[0].eval()
    x = torch.rand(2, 120, 8, 8)
    with torch.inference_mode():
        y = unit(x)
        pooled, computed = y[:, :120], y[:, 120:]
        assert torch.equal(pooled, nn.functional.avg_pool2d(x, 3, 2, padding=1))
        expected = unit.expand(unit.depthwise(dealt(unit.reduce(x), 3))).relu()
    torch.testing.assert_close(computed, expected)


def test_stride_1_adds_its_input():
    unit = create_model("shufflenet_v1_x0_5_g8").stage2[1].eval()
    x = torch.rand(2, 192, 4, 4)
    with torch.inference_mode():
        expected = x + unit.expand(unit.depthwise(dealt(unit.reduce(x), 8)))
        assert (expected < 0).any()
        torch.testing.assert_close(unit(x), expected.relu())


def test_it_trains():
    network = create_model("shufflenet_v1_x0_5_g3", num_classes=5)
    nn.functional.cross_entropy(network(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_no_checkpoint_is_claimed(name):
    assert get_spec(name).checkpoints == ()
