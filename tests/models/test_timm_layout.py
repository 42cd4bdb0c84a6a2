"""Checkpoints in timm's layout, judged by timm."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from models import ModelError, Transform, WeightsError, create_model, get_spec, load_weights
from models.fit import check_fit
from models.layouts import in_our_names

PAIRS = [
    *((f"efficientnet_b{n}", f"efficientnet_b{n}") for n in range(8)),
    *((f"efficientnet_v2_{size}", f"efficientnetv2_{size}") for size in ("s", "m", "l", "xl")),
    ("mobilenet_v3_large", "mobilenetv3_large_100"),
    ("mobilenet_v3_small", "mobilenetv3_small_100"),
]
TENSORFLOW = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def timm(torchvision_models):
    import timm

    return timm


def pair(timm, ours, theirs, path, **options):
    """timm's network with norms that do something, and ours with the same weights, as if read from ``path``."""
    torch.manual_seed(0)
    other = timm.create_model(theirs)
    norms = [module for module in other.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1)
            norm.bias.normal_(0, 0.1)
            norm.momentum = None  # what the next batch has, and nothing of before
        other.train()(torch.randn(4, 3, 64, 64))
    with torch.device("meta"):
        one = create_model(ours, **options)
    state = in_our_names(other.state_dict(), get_spec(ours).layouts)
    one.load_state_dict(state, strict=True, assign=True)
    get_spec(ours).layouts[0].adapt(one, path)
    return one.eval(), other.eval()


def check_equal(ours, theirs, size):
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        logits, expected = ours(images), theirs(images)
    largest = expected.abs().max()
    assert expected.std(0).mean() > 0.05 * largest, "all images give the same logits"
    assert (logits - expected).abs().max() < 1e-5 * largest


# TensorFlow's of all, and timm's own of one of each kind of stage and of epsilon.
OWN = ("efficientnet_b0", "efficientnet_b5", "efficientnet_v2_s", "mobilenet_v3_large", "mobilenet_v3_small")
EQUAL = [*((ours, f"tf_{theirs}") for ours, theirs in PAIRS), *((ours, dict(PAIRS)[ours]) for ours in OWN)]


@pytest.mark.parametrize(("ours", "theirs"), EQUAL, ids=[theirs for _, theirs in EQUAL])
def test_equals_timm(ours, theirs, timm, tmp_path):
    """Padding, epsilon, gates and head, at sizes where ``same`` padding is lopsided and where it is not."""
    padding = "same" if theirs.startswith("tf_") else "symmetric"
    networks = pair(timm, ours, theirs, tmp_path / "w.pth", padding=padding)
    for size in ((64, 64), (49, 66)):
        check_equal(*networks, size)


def test_the_largest_is_tensorflows_without_anybody_saying_so(timm, tmp_path):
    ours, theirs = pair(timm, "efficientnet_v2_xl", "tf_efficientnetv2_xl", tmp_path / "w.pth")
    assert len(theirs.state_dict()) == 1990
    check_equal(ours, theirs, (64, 65))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_tensor_has_its_place(ours, theirs, timm):
    with torch.device("meta"):
        model, state = create_model(ours), timm.create_model(theirs).state_dict()
    check_fit(model, get_spec(ours), state, "w.pth")
    assert set(in_our_names(state, get_spec(ours).layouts)) == set(model.state_dict())


def test_a_misfit_names_the_model(timm):
    with torch.device("meta"):
        model, state = create_model("mobilenet_v3_small"), timm.create_model("tf_efficientnet_b1").state_dict()
        large = timm.create_model("mobilenetv3_large_100", num_classes=3).state_dict()
    for given, advice in (
        (state, "They are efficientnet_b1's: --model efficientnet_b1"),
        (large, "They are mobilenet_v3_large's: --model mobilenet_v3_large --num-classes 3"),
    ):
        with pytest.raises(WeightsError) as caught:
            check_fit(model, get_spec("mobilenet_v3_small"), given, "w.pth")
        assert caught.value.fix == advice


def test_what_is_no_block_keeps_its_name():
    spec = get_spec("efficientnet_b0")
    state = {name: torch.zeros(1) for name in ("conv_stem.weight", "blocks.0.0.new.weight", "blocks.x.weight", "odd")}
    renamed = in_our_names(state, spec.layouts)
    assert list(renamed) == ["features.0.0.weight", "blocks.0.0.new.weight", "blocks.x.weight", "odd"]


@pytest.fixture(scope="module")
def checkpoint(timm, tmp_path_factory):
    """A file of timm's smallest network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "weights"
    save_file(timm.create_model("mobilenetv3_small_100").state_dict(), path)
    return path


def load(checkpoint, folder, name="model.safetensors", config=None, **options):
    path = folder / name
    os.link(checkpoint, path)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
    model = create_model("mobilenet_v3_small", **options)
    info = load_weights(model, get_spec("mobilenet_v3_small"), str(path))
    return model, info


def arithmetic(model):
    """Whether it pads as TensorFlow, and the epsilon of its norms."""
    return model.features[0][0].same, model.features[0][1].eps


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("tf_mobilenetv3_small_100", (True, 1e-3)), ("mobilenetv3_small_100", (False, 1e-5))],
)
def test_the_repositorys_config_tells_the_padding(checkpoint, tmp_path, architecture, expected):
    model, info = load(checkpoint, tmp_path, config={"architecture": architecture})
    assert arithmetic(model) == expected
    assert (info.source, info.layout, info.transform) == ("file", "timm", get_spec("mobilenet_v3_small").transform)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_mobilenetv3_small_100.safetensors", (True, 1e-3)),
        ("mobilenetv3_small_100_lamb-266a295c.safetensors", (False, 1e-5)),
    ],
)
def test_the_files_name_tells_the_padding(checkpoint, tmp_path, name, expected):
    assert arithmetic(load(checkpoint, tmp_path, name)[0]) == expected


@pytest.mark.parametrize(("padding", "expected"), [("same", (True, 1e-3)), ("symmetric", (False, 1e-5))])
@pytest.mark.parametrize("config", [None, {"architecture": "tf_mobilenetv3_small_100"}])
def test_the_users_word_comes_first(checkpoint, tmp_path, padding, expected, config):
    assert arithmetic(load(checkpoint, tmp_path, config=config, padding=padding)[0]) == expected


@pytest.mark.parametrize("config", [None, "{", "[]", {"architecture": None}])
@pytest.mark.parametrize("name", ["model.safetensors", "mobilenetv3_small_100_mine.safetensors"])
def test_nothing_tells_the_padding(checkpoint, tmp_path, name, config):
    with pytest.raises(WeightsError, match="do not tell how it pads") as caught:
        load(checkpoint, tmp_path, name, config)
    assert "--option padding=same" in caught.value.fix
    assert "--option padding=symmetric" in caught.value.fix


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (
            {"input_size": [3, 224, 224], "crop_pct": 0.875},
            Transform(256, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3),
        ),
        (
            {"input_size": [3, 384, 384], "test_input_size": [3, 512, 512], "crop_pct": 1.0, "crop_mode": "squash"},
            Transform(512, (512, 512), "bicubic", (0.5,) * 3, (0.5,) * 3, "squash"),
        ),
        (
            {"input_size": [3, 224, 224], "crop_pct": 0.9, "crop_mode": "squash"},
            Transform(248, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3, "squash"),
        ),
        (None, None),
    ],
)
def test_preprocessing_is_the_configs_where_it_can_be(checkpoint, tmp_path, cfg, expected):
    config = {"architecture": "tf_mobilenetv3_small_100", "pretrained_cfg": cfg and {**TENSORFLOW, **cfg}}
    info = load(checkpoint, tmp_path, config=config)[1]
    assert info.transform == (expected or get_spec("mobilenet_v3_small").transform)


@pytest.mark.parametrize("cfg", [{"crop_mode": "border"}, {"interpolation": "nearest"}, {"input_size": "large"}])
def test_preprocessing_that_is_none_of_ours_is_refused(checkpoint, tmp_path, cfg):
    config = {"architecture": "tf_mobilenetv3_small_100", "pretrained_cfg": {**TENSORFLOW, **cfg}}
    with pytest.raises(ModelError, match="timm prepares images for this network in a way|cannot be read"):
        load(checkpoint, tmp_path, config=config)


def test_a_name_and_a_config_that_disagree_are_refused(checkpoint, tmp_path):
    with pytest.raises(WeightsError, match=r"disagree .*tf_mobilenetv3_small_100.safetensors, config.json's resnet50"):
        load(checkpoint, tmp_path, "tf_mobilenetv3_small_100.safetensors", {"architecture": "resnet50"})
