"""PyTorch's own FlopCounterMode as the oracle of products, its profiler of memory; small modules counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models import create_model, get_spec, list_models
from models.complexity import complexity


def flops(model: nn.Module, *shape: int) -> int:
    """PyTorch's count for one input, in evaluation mode."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(shape, device="meta"))
    return counter.get_total_flops()


def layer(model: nn.Module, path: str, inputs):
    (found,) = [layer for layer in complexity(model, inputs).layers if layer.path == path]
    return found


@pytest.mark.parametrize("name", list_models())
def test_facts_of_the_registry_and_the_oracle(name):
    spec = get_spec(name)
    with torch.device("meta"):
        model = create_model(name)
    counted = complexity(model, spec.input_size)
    assert counted.parameters == spec.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.macs / 1e9 == pytest.approx(spec.gmacs, rel=0.005, abs=0.0006)  # three digits
    assert counted.flops == flops(model, 1, 3, *spec.input_size)


@pytest.mark.parametrize(
    ("name", "size", "million_activations"),
    [
        # As published: the CNNs in "Designing Network Design Spaces", the transformers by timm.
        ("resnet50", 224, 11.1),
        ("efficientnet_b0", 224, 6.7),
        ("vit_b_16", 224, 23.9),
        ("swin_t", 224, 17.06),
    ],
)
def test_networks_of_torchvision(torchvision_models, name, size, million_activations):
    with torch.device("meta"):
        model = getattr(torchvision_models, name)()
    counted = complexity(model, (size, size))
    assert counted.flops == flops(model, 1, 3, size, size)
    assert counted.activations / 1e6 == pytest.approx(million_activations, abs=0.06)


def test_networks_of_timm(torchvision_models):
    timm = pytest.importorskip("timm")
    for name in ("vit_tiny_patch16_224", "mobilenetv4_conv_small"):
        with torch.device("meta"):
            model = timm.create_model(name)
        assert complexity(model, (224, 224)).flops == flops(model, 1, 3, 224, 224)


@pytest.mark.parametrize(
    ("module", "shape", "outputs", "macs"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), (1, 6, 8, 12), (1, 8, 4, 6), 4 * 6 * 8 * 3 * 9),
        (nn.Conv1d(2, 4, 5), (1, 2, 9), (1, 4, 5), 5 * 4 * 2 * 5),
        # Each of the 5x7 inputs of 4 channels meets a 3x3 filter of 6 / 2 channels, whatever the stride.
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 7), (1, 6, 11, 15), 5 * 7 * 4 * 3 * 9),
        (nn.Linear(4, 5), (1, 4), (1, 5), 4 * 5),
        (nn.Linear(4, 5, bias=False), (1, 7, 4), (1, 7, 5), 7 * 4 * 5),
    ],
)
def test_one_layer_by_hand(module, shape, outputs, macs):
    counted = complexity(module, [shape])
    (row,) = counted.layers
    assert (row.path, row.type, row.outputs) == ("", type(module).__name__, (outputs,))
    assert counted.macs == row.macs == macs
    assert counted.activations == row.activations == torch.Size(outputs).numel()
    assert counted.parameters == row.parameters == sum(parameter.numel() for parameter in module.parameters())


class Attention(nn.Module):
    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


def test_attention_with_several_inputs():
    counted = complexity(Attention(), [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3)])
    assert counted.macs == 2 * 5 * 7 * 8 + 2 * 5 * 7 * 3
    assert counted.activations == 2 * 5 * 7 + 2 * 5 * 3
    assert counted.layers[0].outputs == ((1, 2, 5, 3),)


class Products(nn.Module):
    def forward(self, x, vector):
        return {"all": (x @ x.transpose(1, 2), [torch.einsum("bij,j->bi", x, vector)]), "none": None}


def test_products_without_layers_and_nested_outputs():
    counted = complexity(Products(), [(2, 3, 4), torch.empty(4)])
    assert counted.macs == 2 * 3 * 3 * 4 + 2 * 3 * 4
    assert counted.layers[0].outputs == ((2, 3, 3), (2, 3))


class Tokens(nn.Module):
    """Embedding and head share one matrix; the head's product is the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return F.linear(self.embedding(tokens), self.head.weight)


def test_integers_as_input_shared_parameters_and_a_module_not_called():
    counted = complexity(Tokens(), [torch.zeros(1, 6, dtype=torch.long)])
    rows = {row.path: (row.parameters, row.macs, row.outputs) for row in counted.layers}
    assert rows == {"": (0, 6 * 4 * 10, ((1, 6, 10),)), "embedding": (40, 0, ((1, 6, 4),))}
    assert counted.parameters == 40


def test_a_module_that_is_called_twice_is_one_row():
    shared = nn.Linear(4, 4)
    counted = complexity(nn.Sequential(shared, nn.ReLU(), shared), [(1, 4)])
    assert [(row.path, row.parameters, row.macs, row.activations) for row in counted.layers] == [
        ("0", 20, 2 * 16, 2 * 4),
        ("1", 0, 0, 0),
    ]


def test_rows_are_innermost_modules_in_order_of_definition():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Dropout(), nn.Flatten())
    counted = complexity(model, (8, 8))
    assert [(row.path, row.type, row.parameters) for row in counted.layers] == [
        ("0", "Conv2d", 3 * 4 * 9 + 4),
        ("1.0", "BatchNorm2d", 8),
        ("1.1", "ReLU", 0),
        ("3", "Flatten", 0),
    ]
    assert counted.layers[2].outputs == ((1, 4, 6, 6),)


def test_multihead_attention_holds_parameters_that_no_call_uses():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    counted = complexity(attention, [(1, 5, 8)] * 3)
    assert counted.parameters == sum(parameter.numel() for parameter in attention.parameters())
    assert layer(attention, "out_proj", [(1, 5, 8)] * 3).outputs == ()
    assert counted.macs == 4 * 5 * 8 * 8 + 2 * (2 * 5 * 5 * 4)


class Residual(nn.Module):
    """x → a → b → a + b, one value per channel and 1,000 channels: 4,000 bytes a tensor."""

    def forward(self, x):
        a = torch.sigmoid(x)
        b = torch.sigmoid(a)
        return (a + b).view(10, 100)


class InPlace(nn.Module):
    def forward(self, x):
        y = torch.sigmoid(x)
        y.tanh_()
        y[:500].abs_()
        return F.relu(y, inplace=True).reshape(100, 10).t()


class Freed(nn.Module):
    def forward(self, x):
        for _ in range(5):
            x = torch.sigmoid(x)
        return torch.cat([x, x])


@pytest.mark.parametrize(
    ("module", "tensors"),
    [
        (Residual(), 4),  # x, a, b and their sum; the view adds nothing
        (InPlace(), 2),  # x, y
        (Freed(), 4),  # x is the caller's to free; the last sigmoid and twice that for cat
        (nn.Sequential(nn.Sigmoid(), nn.ReLU(inplace=True), nn.Sigmoid(), nn.Sigmoid()), 3),
    ],
)
def test_peak_memory_by_hand_and_by_the_profiler(module, tensors):
    assert complexity(module, [(1000,)]).peak_bytes == tensors * 4000 == profiled_peak(module, torch.zeros(1000))


def profiled_peak(module: nn.Module, example: torch.Tensor) -> int:
    """What the allocator of the CPU really gave away at once. Only for operators that need nothing on the side."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        module(example)
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = example.nbytes
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak


def test_parameters_and_what_is_derived_from_them_by_views_are_not_activations():
    assert complexity(nn.Linear(1000, 10), [(1, 1000)]).peak_bytes == 4 * (1000 + 10)


def test_a_residual_block_in_bytes():
    block = create_model("mobilenet_v3_large").features[1]
    image = 4 * 16 * 32 * 32
    # At the second norm: the skip, the input of the projection, its output, and that normalized.
    peak = complexity(block, [(1, 16, 32, 32)]).peak_bytes
    assert 4 * image <= peak <= 4 * image + 2 * 4 * 16  # on meta, batch norm also gives back two statistics


def test_the_model_stays_as_it_is():
    model = create_model("mobilenet_v3_small")
    model.features[0].eval()
    model.register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    complexity(model, (32, 32))  # norms meet a single pixel here, which train mode refuses for one image
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_a_failure_leaves_no_hooks_and_no_modes():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        complexity(model, [(1, 4)])
    assert model.training
    assert model[0].training
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_the_caller_may_be_in_inference_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    counted = complexity(model, (8, 8))
    assert counted.macs == 36 * 4 * 27 + 144 * 5
    with torch.inference_mode():
        assert complexity(model, (8, 8)) == counted
