"""Networks of torchvision and timm by name, with their preprocessing and checkpoints."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision_operators  # noqa: F401 - before torchvision and timm
from safetensors.torch import save_file

from models import Transform, UnknownModel, load_weights
from models import weights as weights_module
from models.fit import default_network, shapes_of
from models.resolve import resolve
from models.transforms import transform_of_config


def external(name, num_classes=None, image_size=None, **options):
    return resolve(name, num_classes, image_size, options)


def test_a_network_of_torchvisions(torchvision_models):
    found = external("torchvision:resnet18")
    assert found.external
    assert not found.has_weights
    assert found.takes_images
    assert found.spec.transform == Transform(256, (224, 224))
    theirs = torchvision_models.ResNet18_Weights.DEFAULT
    (checkpoint,) = found.spec.checkpoints
    assert (checkpoint.url, checkpoint.tag) == (theirs.url, "IMAGENET1K_V1")
    assert theirs.url.endswith(f"-{checkpoint.sha256_prefix}.pth")
    assert checkpoint.top1 == pytest.approx(69.758)
    torch.manual_seed(0)
    ours = external("torchvision:resnet18", num_classes=3).module.eval()
    torch.manual_seed(0)
    peer = torchvision_models.resnet18(num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images), peer(images))


def test_the_best_checkpoint_comes_first_with_its_own_transform():
    found = external("torchvision:resnet50")
    assert [checkpoint.tag for checkpoint in found.spec.checkpoints] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]
    assert [checkpoint.transform.resize for checkpoint in found.spec.checkpoints] == [232, 256]


def test_a_network_of_timms():
    found = external("timm:resnet10t", num_classes=7)
    assert found.spec.checkpoints[0].hub_id == "timm/resnet10t.c3_in1k"
    assert found.spec.input_size == found.spec.transform.crop == (224, 224)
    assert found.module.get_classifier().out_features == 7


@pytest.mark.parametrize(
    "name", ["resnet10t", "convnext_tiny", "tf_efficientnetv2_b0", "tf_efficientnetv2_xl", "mixer_s32_224"]
)
def test_preprocessing_is_what_timm_validates_with(name):
    import timm

    published = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config({}, pretrained_cfg=published, use_test_size=True)
    size = timm.data.create_transform(**config).transforms[0].size
    ours = transform_of_config(published)
    assert (3, *ours.crop) == config["input_size"]
    assert (ours.mean, ours.std, ours.interpolation) == (config["mean"], config["std"], config["interpolation"])
    assert ours.mode == {"center": "crop", "squash": "squash"}[config["crop_mode"]]
    assert (ours.resize if ours.mode == "crop" else ours.crop) == size


def test_a_transformer_is_made_for_the_size_asked_for():
    module = external("timm:vit_tiny_patch16_224", image_size=(64, 64)).module.eval()
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_the_default_checkpoint_of_every_network_of_torchvisions_is_for_its_image_size(torchvision_models, monkeypatch):
    monkeypatch.setattr("models.external.made", lambda *_: torch.nn.Identity())  # only what is known of them
    for name in torchvision_models.list_models(module=torchvision_models):
        spec = external(f"torchvision:{name}").spec
        default = torchvision_models.get_model_weights(name).DEFAULT
        assert spec.checkpoints[0].url == default.url
        assert spec.transform == spec.checkpoints[0].transform
        assert spec.parameters == default.meta["num_params"]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_own_weights_bring_their_input_scaling(tmp_path, monkeypatch, name):
    found = external(f"torchvision:{name}")
    assert not found.module.transform_input
    torch.save(found.module.state_dict(), tmp_path / "w.pth")
    assert load_weights(found.module, found.spec, str(tmp_path / "w.pth")).source == "file"
    assert not found.module.transform_input
    monkeypatch.setattr(weights_module._Cache, "file", lambda self, checkpoint: tmp_path / "w.pth")
    assert load_weights(found.module, found.spec, "pretrained").source == "official"
    assert found.module.transform_input


def test_a_network_that_cannot_be_made_without_memory():
    """RegNets draw numbers from what was made before; their official weights are compared with one in memory."""
    found = external("torchvision:regnet_y_400mf")
    assert shapes_of(default_network(found.spec).state_dict()) == shapes_of(found.module.state_dict())


def test_the_names_in_torchvisions_densenet_files(tmp_path):
    found = external("torchvision:densenet121", num_classes=3)
    names = {name: re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", name) for name in found.module.state_dict()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in names.values()
    torch.save({names[name]: tensor + 1 for name, tensor in found.module.state_dict().items()}, tmp_path / "w.pth")
    before = found.module.features.denseblock1.denselayer1.conv2.weight.clone()
    load_weights(found.module, found.spec, str(tmp_path / "w.pth"))
    assert torch.equal(found.module.features.denseblock1.denselayer1.conv2.weight, before + 1)


def test_a_network_whose_own_loading_wants_a_version(tmp_path):
    found = external("torchvision:mnasnet0_5")
    torch.save(found.module.state_dict(), tmp_path / "w.pth")
    assert load_weights(found.module, found.spec, str(tmp_path / "w.pth")).source == "file"


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("torchvision:resnet5", "torchvision:resnet50"), ("timm:convnext_tin", "timm:convnext_tiny")],
)
def test_an_unknown_name_suggests_the_packages_closest(name, suggested):
    with pytest.raises(UnknownModel) as caught:
        external(name)
    assert suggested in caught.value.suggestions


def test_weights_from_the_hub_are_official(tmp_path, monkeypatch):
    found = external("timm:resnet10t")
    file = tmp_path / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in found.module.state_dict().items()}, file)
    monkeypatch.setattr(weights_module, "hub_file", lambda repository, timeout: file)
    before = found.module.state_dict()["fc.bias"].clone()
    info = load_weights(found.module, found.spec, "pretrained")
    assert (info.source, info.name, info.transform) == ("official", "model.safetensors", found.spec.transform)
    assert torch.equal(found.module.state_dict()["fc.bias"], before + 1)


def test_a_file_of_weights_is_no_official_one(tmp_path):
    """A hub checkpoint's hash is not known beforehand: no file may pass for it."""
    found = external("timm:resnet10t")
    save_file(found.module.state_dict(), tmp_path / "mine.safetensors")
    assert load_weights(found.module, found.spec, str(tmp_path / "mine.safetensors")).source == "file"


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224", "timm:resnet10t"])
def test_random_weights_spread_without_batch_norms_too(name):
    found = external(name, num_classes=20)
    load_weights(found.module, found.spec, "random")
    images = torch.nn.functional.interpolate(torch.randn(6, 3, 9, 9), (224, 224))
    with torch.inference_mode():
        logits = found.module.eval()(images)
    assert 0.05 < logits.std(0).mean() < 20
