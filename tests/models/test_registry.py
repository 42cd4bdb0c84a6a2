from __future__ import annotations

import pytest
from torch import nn

from models import (
    ModelError,
    UnknownModel,
    check_image_size,
    coco_labels,
    create_model,
    get_spec,
    imagenet_labels,
    list_models,
    registry,
)

NAMES = list_models()


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_SPECS", {})
    monkeypatch.setattr(registry, "_ALIASES", {})


def register(name, aliases=()):
    @registry.register(
        name,
        aliases=aliases,
        family="toy",
        input_size=(8, 8),
        transform=registry.Transform(8, (8, 8)),
        paper="none",
        parameters=20,
        gmacs=0.0,
        num_classes=10,
    )
    def build(*, num_classes=10, bias=True, scale=1.0):
        return nn.Linear(2, num_classes, bias=bias)

    return build


def test_models_are_listed_in_order():
    assert list_models() == sorted(NAMES)
    assert {"mobilenet_v3_large", "mobilenet_v3_small"} <= set(NAMES)


def test_an_alias_names_the_same_model(empty_registry):
    register("toy", aliases=("t",))
    assert get_spec("t") is get_spec("toy")
    assert list_models() == ["toy"]
    assert create_model("t").out_features == 10


@pytest.mark.parametrize(("name", "aliases"), [("toy", ()), ("t", ()), ("new", ("toy",)), ("new", ("t",))])
def test_a_taken_name_raises(empty_registry, name, aliases):
    register("toy", aliases=("t",))
    with pytest.raises(ValueError, match="registered already"):
        register(name, aliases)
    assert list_models() == ["toy"]


@pytest.mark.parametrize("typed", ["mobilenet_v3_larg", "mobilenet-v3-large", "MobileNet_V3_Large"])
def test_an_unknown_name_suggests_the_closest(typed):
    with pytest.raises(UnknownModel, match="Did you mean mobilenet_v3_large or") as caught:
        get_spec(typed)
    assert caught.value.suggestions[0] == "mobilenet_v3_large"
    assert typed in caught.value.what


def test_a_name_like_no_other_has_no_suggestions():
    with pytest.raises(UnknownModel, match="All names: ") as caught:
        create_model("zzz")
    assert caught.value.suggestions == ()


def test_an_unknown_option_lists_those_there_are():
    with pytest.raises(
        ModelError, match=r"no option 'width'.*width_mult \(default 1.0\), reduced_tail \(default False\)"
    ):
        create_model("mobilenet_v3_small", width=0.5)


@pytest.mark.parametrize(("option", "value"), [("width_mult", "0.5"), ("width_mult", True), ("reduced_tail", 1)])
def test_an_option_of_another_type_raises(option, value):
    with pytest.raises(ModelError, match=f"'{option}' is of another type"):
        create_model("mobilenet_v3_small", **{option: value})


def test_a_whole_number_serves_as_a_float(empty_registry):
    register("toy")
    assert create_model("toy", scale=2, num_classes=3).out_features == 3


def test_classes_must_be_positive():
    with pytest.raises(ModelError, match="num_classes of 1 or more"):
        create_model("mobilenet_v3_small", num_classes=0)


def test_an_error_has_its_parts():
    error = ModelError("it broke", got=1, expected=2, fix="Mend it", details=("first", "second"))
    assert (error.what, error.got, error.expected, error.fix) == ("it broke", "1", "2", "Mend it")
    assert str(error) == "it broke (got 1; expected 2). Mend it\nfirst\nsecond"


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_named_by_their_hash(name):
    spec = get_spec(name)
    assert [c.top1 for c in spec.checkpoints] == sorted((c.top1 for c in spec.checkpoints), reverse=True)
    for checkpoint in spec.checkpoints:
        assert checkpoint.filename.endswith(f"-{checkpoint.sha256_prefix}.pth")


def test_names_that_are_easily_mistaken_say_so():
    assert get_spec("effv2_s") is get_spec("efficientnet_v2_s")
    assert "not effnetv2_s" in get_spec("effv2_s").note
    assert "not efficientnet_v2_s" in get_spec("effnetv2_s").note
    assert get_spec("efficientnet_b0").note == ""


def test_labels_are_torchvisions(torchvision_models):
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert imagenet_labels() == tuple(_IMAGENET_CATEGORIES)


def test_labels_of_coco_are_torchvisions(torchvision_models):
    from torchvision.models._meta import _COCO_CATEGORIES

    assert coco_labels() == tuple(name for name in _COCO_CATEGORIES if name not in ("__background__", "N/A"))


@pytest.mark.parametrize(
    ("name", "height", "width", "told"),
    [
        ("yolov5s", 650, 640, "got 650; expected a multiple of 32: 640 or 672"),
        ("yolov5s", 640, 16, "got 16; expected a multiple of 32: 32"),
        ("yolov5s", 0, 640, "got 0; expected a multiple of 32: 32"),
        ("yolov5s_efficientnetv2", 640, 672, "got 672; expected a multiple of 64: 640 or 704"),
        ("mobilenet_v3_small", 224, 0, "got 0; expected a multiple of 1: 1"),
    ],
)
def test_a_size_the_strides_do_not_divide(name, height, width, told):
    with pytest.raises(ModelError) as caught:
        check_image_size(get_spec(name), height, width)
    assert str(caught.value) == f"{name} cannot take images of {height}x{width} pixels ({told})"


@pytest.mark.parametrize(("name", "size"), [("yolov5s", (320, 672)), ("mobilenet_v3_small", (225, 1))])
def test_a_size_they_divide(name, size):
    check_image_size(get_spec(name), *size)


@pytest.mark.parametrize("name", NAMES)
def test_the_own_size_is_a_size_it_takes(name):
    check_image_size(get_spec(name), *get_spec(name).input_size)


@pytest.mark.parametrize("name", [name for name in NAMES if get_spec(name).checkpoints])
def test_facts_are_torchvisions(name, torchvision_models):
    """Urls, accuracies and transforms of every official checkpoint."""
    published = {weights.url: weights for weights in torchvision_models.get_model_weights(name)}
    spec = get_spec(name)
    assert {checkpoint.url for checkpoint in spec.checkpoints} == set(published)
    for checkpoint in spec.checkpoints:
        theirs, transform = published[checkpoint.url], checkpoint.transform or spec.transform
        preset = theirs.transforms()
        assert theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] == pytest.approx(checkpoint.top1, abs=0.006)
        assert (preset.crop_size, preset.resize_size) == ([transform.crop[0]], [transform.resize])
        assert preset.interpolation.value == transform.interpolation
        assert (tuple(preset.mean), tuple(preset.std)) == (transform.mean, transform.std)
