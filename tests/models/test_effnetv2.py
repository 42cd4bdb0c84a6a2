from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import create_model

# Parameters and tensors in the state_dict.
COUNTS = {
    "effnetv2_s": (24_124_136, 794),
    "effnetv2_s_256": (22_103_832, 794),
    "effnetv2_m": (55_300_016, 1138),
    "effnetv2_l": (119_355_792, 1572),
    "effnetv2_xl": (208_960_328, 2014),
    "effnetv2_s_fused_se": (24_177_408, 834),
    "effnetv2_s_256_fused_se": (22_157_104, 834),
    "effnetv2_m_fused_se": (55_397_480, 1190),
    "effnetv2_l_fused_se": (119_532_336, 1644),
    "effnetv2_xl_fused_se": (209_164_176, 2094),
}


def created(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_ports(name):
    model = created(name)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == COUNTS[name]
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_keys_are_the_ports():
    shapes = {name: tuple(tensor.shape) for name, tensor in created("effnetv2_s").state_dict().items()}
    expected = {
        "features.0.0.weight": (24, 3, 3, 3),
        "features.0.1.running_mean": (24,),
        "features.1.conv.0.weight": (24, 24, 3, 3),
        "features.1.conv.3.weight": (24, 24, 1, 1),
        "features.1.conv.4.bias": (24,),
        "features.11.conv.3.weight": (256, 1, 3, 3),  # the first separable block
        "features.11.conv.6.fc.0.weight": (16, 256),
        "features.11.conv.6.fc.2.bias": (256,),
        "features.11.conv.7.weight": (128, 256, 1, 1),
        "features.40.conv.8.weight": (272,),
        "conv.0.weight": (1792, 272, 1, 1),
        "conv.1.weight": (1792,),
        "classifier.weight": (1000, 1792),
        "classifier.bias": (1000,),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_gates_in_fused_blocks():
    plain, gated = (created(name).state_dict() for name in ("effnetv2_s", "effnetv2_s_fused_se"))
    assert gated["features.3.conv.3.fc.0.weight"].shape == (8, 96)
    assert "features.3.conv.3.fc.0.weight" not in plain
    assert gated["features.3.conv.4.weight"].shape == plain["features.3.conv.3.weight"].shape


def norm(x, layer):
    return functional.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)


def test_a_separable_block_step_by_step():
    block = create_model("effnetv2_s").eval().features[12]
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.5)
    c, x = block.conv, torch.randn(2, 128, 6, 5)
    y = functional.silu(norm(functional.conv2d(x, c[0].weight), c[1]))
    y = functional.silu(norm(functional.conv2d(y, c[3].weight, padding=1, groups=y.shape[1]), c[4]))
    gate = functional.silu(functional.linear(y.mean((2, 3)), c[6].fc[0].weight, c[6].fc[0].bias))
    gate = torch.sigmoid(functional.linear(gate, c[6].fc[2].weight, c[6].fc[2].bias))
    y = norm(functional.conv2d(y * gate[:, :, None, None], c[7].weight), c[8])
    torch.testing.assert_close(block(x), x + y, rtol=1e-5, atol=1e-5)


def test_a_fused_block_step_by_step():
    block = create_model("effnetv2_s").eval().features[4]
    c, x = block.conv, torch.randn(2, 48, 6, 5)
    y = functional.silu(norm(functional.conv2d(x, c[0].weight, padding=1), c[1]))
    y = norm(functional.conv2d(y, c[3].weight), c[4])
    torch.testing.assert_close(block(x), x + y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["effnetv2_s_256", "effnetv2_s_fused_se"])
def test_logits(name):
    logits = create_model(name, num_classes=5).eval()(torch.randn(2, 3, 48, 33))
    assert logits.shape == (2, 5)
