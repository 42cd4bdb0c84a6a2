from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from deploy.errors import InputError, MachineError
from deploy.runtime import networks as module
from deploy.runtime.networks import load_network, model_facts, model_table
from deploy.specs import NetworkOptions, Preprocessing, TensorSpec
from models import WeightsUnavailable, get_spec, imagenet_labels, list_models

NAME = "mobilenet_v3_small"
RANDOM = NetworkOptions(weights="random", num_classes=3, image_size=(32, 32), options=(("width_mult", 0.5),))


@pytest.fixture(scope="module")
def network():
    return load_network(NAME, RANDOM)


def test_a_network_by_name(network):
    assert network.weights.source == "random"
    assert network.classes == 3
    assert network.labels is None
    assert network.parameters == sum(parameter.numel() for parameter in network.module.parameters())
    assert network.macs > 0
    assert not network.module.training


def test_its_runner_is_a_reference_for_any_batch(network):
    feed = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    with network.runner() as runner:
        assert runner.inputs == (TensorSpec("input", "float32", ("batch", 3, 32, 32)),)
        assert runner.outputs == (TensorSpec("logits", "float32", ("batch", 3)),)
        got = runner.infer({"input": feed})["logits"]
    with torch.inference_mode():
        np.testing.assert_array_equal(got, network.module(torch.from_numpy(feed)).numpy())
    assert got.std() > 0.1


def test_random_weights_are_the_same_every_time(network):
    again = load_network(NAME, RANDOM).module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, Preprocessing(256, (224, 224))),
        ((64, 64), Preprocessing(73, (64, 64))),
        ((112, 112), Preprocessing(128, (112, 112))),
        ((112, 160), Preprocessing(128, (112, 160))),
    ],
)
def test_another_size_keeps_the_proportion_of_the_resize(monkeypatch, size, expected):
    monkeypatch.setattr(module, "load_weights", _loaded("file"))
    options = dataclasses.replace(RANDOM, image_size=size)
    assert load_network(NAME, options).preprocessing == expected


def _loaded(source):
    from models.weights import WeightsInfo

    transform = get_spec(NAME).transform
    return lambda *args, **options: WeightsInfo(source, "net.pth", "ab" * 32, transform, None)


def test_labels_given_are_kept_and_counted(monkeypatch):
    monkeypatch.setattr(module, "load_weights", _loaded("file"))
    assert load_network(NAME, RANDOM, labels=("a", "b", "c")).labels == ("a", "b", "c")
    with pytest.raises(InputError, match=r"labels are not this network's \(got 2 labels; expected 3 classes\)"):
        load_network(NAME, RANDOM, labels=("a", "b"))


@pytest.mark.parametrize(("source", "labels"), [("official", imagenet_labels()), ("file", None), ("random", None)])
def test_only_official_weights_are_known_to_be_imagenets(monkeypatch, source, labels):
    monkeypatch.setattr(module, "load_weights", _loaded(source))
    network = load_network(NAME, NetworkOptions(image_size=(32, 32)))
    assert network.labels == labels
    assert network.weights.source == source
    assert network.weights.name == "net.pth"


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("mobilenet_v3_smal", {}, "mobilenet_v3_small"),
        (NAME, {"weights": "nowhere.pth"}, r"no such weights file \(got nowhere.pth"),
        (NAME, {"options": (("width", 1.0),)}, "width"),
        (NAME, {"options": (("width_mult", -1.0),)}, "cannot be built so"),
    ],
)
def test_errors_of_models_are_ours(model, options, said):
    with pytest.raises(InputError, match=said):
        load_network(model, dataclasses.replace(RANDOM, **options))


def test_weights_that_cannot_be_had_here_are_the_machines_fault(monkeypatch):
    def unavailable(*args, **options):
        raise WeightsUnavailable("no network", got="timeout", fix="Put the file there.", details=["a", "b"])

    monkeypatch.setattr(module, "load_weights", unavailable)
    with pytest.raises(MachineError, match=r"no network \(got timeout\). Put the file there.") as caught:
        load_network(NAME, RANDOM)
    assert caught.value.details == ("a", "b")


def test_the_table_lists_every_model_as_json():
    table = model_table()
    assert [row["name"] for row in table] == list(list_models())
    assert json.loads(json.dumps(table)) == table
    for row in table:
        spec = get_spec(row["name"])
        assert row == model_facts(row["name"])
        assert row["parameters"] == spec.parameters
        assert row["input_size"] == "x".join(map(str, spec.input_size))
        assert row["checkpoints"] == [checkpoint.tag for checkpoint in spec.checkpoints]


def test_facts_are_found_by_alias_and_refused_for_strangers():
    for name in list_models():
        for alias in get_spec(name).aliases:
            assert model_facts(alias)["name"] == name
    with pytest.raises(InputError, match="resnet5"):
        model_facts("resnet5")
