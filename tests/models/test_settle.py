from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model, get_spec, list_models
from models.settle import IMAGENET, _images, settle

CLASSIFIERS = [name for name in list_models() if get_spec(name).task == "classification"]
DETECTORS = [name for name in list_models() if get_spec(name).task == "detection"]


def clouds(count, size):
    """Images of mean 0 and deviation 1 with the spectrum of photographs, 1/f: nothing ``settle`` has seen."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.fftfreq(size)[None, :])
    images = torch.fft.ifft2(torch.fft.fft2(noise) / frequency.clamp_min(1 / size)).real
    return (images - images.mean()) / images.std()


def created(name):
    """A network without the weights that ``settle`` replaces."""
    with torch.device("meta"):
        return create_model(name, num_classes=50).to_empty(device="cpu")


def sizes(name):
    """Small ones for large networks, to save time."""
    parameters = get_spec(name).parameters
    return (64, 224) if parameters < 10e6 else (64,) if parameters < 50e6 else (32,)


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in CLASSIFIERS for size in sizes(name)])
def test_logits_spread(name, size):
    model = created(name)
    settle(model, (size, size))
    model.eval()
    with torch.inference_mode():
        logits = model(clouds(8, size))
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.std() < 100
    assert logits.std(0).mean() > 0.1, "all images give the same logits"
    assert logits.std(1).mean() > 0.1, "all classes have the same logit"
    assert logits.argmax(1).unique().numel() > 1


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_spread(name):
    """On photographs as the transform leaves them, values of 0 to 1."""
    spec, model = get_spec(name), create_model(name, num_classes=10)
    side = 2 * spec.size_multiple
    settle(model, (side, side), transform=spec.transform)
    with torch.inference_mode():
        boxes, scores = model.eval()((0.45 + 0.25 * clouds(4, side)).clamp(0, 1))
    assert torch.isfinite(boxes).all()
    assert torch.isfinite(scores).all()
    for axis, alike in enumerate(("images", "positions", "classes")):
        assert scores.std(axis).mean() > 0.03, f"all {alike} have the same scores"
    assert scores.argmax(2).unique().numel() > 5
    assert 0.05 < (scores > 0.25).float().mean() < 0.95
    sides, centres = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    assert 5 < sides.median() < 400
    assert sides.std((0, 1)).min() > 5, "all boxes are of one size"
    assert 0.25 * side < centres.median() < 0.75 * side
    assert boxes.std(0).mean() > 1, "all images give the same boxes"


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s_efficientnetv2"])
def test_a_detector_hardly_magnifies_noise(name):
    """Else backends would differ in boxes and scores by more than their rounding."""
    model, images = create_model(name, num_classes=10), clouds(4, 128)
    settle(model, (128, 128))
    maps = model.eval().detect.register_forward_hook(lambda detect, inputs, output: seen.append(inputs[0]))
    seen = []
    with torch.inference_mode():
        model(images)
        model(images + 1e-4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    maps.remove()
    assert (seen[1] - seen[0]).std() / seen[0].std() < 5e-4


class Maps(nn.Module):
    """A convolution, and one that it names as its head."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    @property
    def heads(self):
        return [self.head]

    def forward(self, x):
        return 100 * self.head(self.body(x))


def images_of(count, size):
    """Images of the kind that ``settle`` fits networks to, others than those it used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return torch.cat([_images((size, size), IMAGENET) for _ in range(count // 8)])


def test_a_head_has_mean_0_and_deviation_1():
    model = Maps()
    settle(model, (16, 16))
    with torch.inference_mode():
        output = model(images_of(64, 16)) / 100
    assert 0.5 < output.std() < 2
    assert output.mean((0, 2, 3)).abs().max() < 0.8


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x0_5", "efficientnet_b0", "effnetv2_s"]
)
def test_what_hardly_changes_an_image_hardly_changes_the_logits(name):
    """Random networks amplify rounding layer by layer, unless their residual branches are small."""
    model = created(name)
    settle(model, (64, 64))
    images = clouds(8, 64)
    touched = images + 1e-3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, moved = model.eval()(images), model(touched)
    assert (moved - logits).std() < 0.02 * logits.std()


def settled(seed):
    model = create_model("mobilenet_v3_small", num_classes=10)
    settle(model, (64, 64), seed)
    return model.state_dict()


def test_equal_seeds_give_equal_weights():
    one, again, other = settled(0), settled(0), settled(1)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["features.0.0.weight"], other["features.0.0.weight"])


@pytest.mark.parametrize(("name", "momentum"), [("mobilenet_v3_small", 0.01), ("yolov5n", 0.03)])
def test_what_is_not_its_own_stays(name, momentum):
    model = create_model(name)
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    settle(model, (32, 32))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_linear_layer_without_bias():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4, bias=False))
    settle(model, (8, 8))
    assert 0.2 < model(clouds(8, 8)).std() < 5
