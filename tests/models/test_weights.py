from __future__ import annotations

import dataclasses
import functools
import http.server
import threading

import pytest
import torch

from models import Checkpoint, Transform, WeightsError, WeightsUnavailable, create_model, get_spec, load_weights
from models.download import sha256_of
from models.settle import settle

NAME = "mobilenet_v3_small"
# Nobody listens on port 1: a connection is refused at once.
NOWHERE = "http://127.0.0.1:1"
OTHER = Transform(300, (224, 224))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a file of settled weights, as a server offers it."""
    folder = tmp_path_factory.mktemp("published")
    model = create_model(NAME)
    settle(model, (32, 32))
    torch.save(model.state_dict(), folder / "best.pth")
    return folder


@pytest.fixture
def server(published):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def spec_at(base, published, transform=None):
    """The spec, its best checkpoint being the published file and its second one out of reach."""
    prefix = sha256_of(published / "best.pth")[:8]
    best = Checkpoint("V2", f"{base}/best.pth", prefix, 70.0, transform)
    return dataclasses.replace(
        get_spec(NAME), checkpoints=(best, Checkpoint("V1", f"{NOWHERE}/old.pth", "0" * 8, 60.0))
    )


def load(spec, source, cache, model=None, **options):
    return load_weights(model or create_model(NAME), spec, source, cache=cache, input_size=(32, 32), **options)


@pytest.mark.parametrize("source", ["auto", "pretrained", "pretrained:V2", "V2"])
def test_the_best_checkpoint_is_downloaded_once(server, published, tmp_path, source):
    model, done = create_model(NAME), []
    info = load(
        spec_at(server, published, OTHER), source, tmp_path, model, progress=lambda now, total: done.append(now)
    )
    expected = torch.load(published / "best.pth", weights_only=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert (info.source, info.name, info.reason) == ("official", "best.pth", None)
    assert info.sha256 == sha256_of(published / "best.pth")
    assert info.transform == OTHER
    assert done[-1] == (published / "best.pth").stat().st_size
    assert load(spec_at(NOWHERE, published), source, tmp_path).source == "official", "the cache was not used"


def test_a_damaged_file_in_the_cache_is_replaced(server, published, tmp_path):
    (tmp_path / "best.pth").write_bytes(b"damaged")
    assert load(spec_at(server, published), "pretrained", tmp_path).source == "official"


def test_pretrained_out_of_reach_says_what_to_do(published, tmp_path):
    with pytest.raises(WeightsUnavailable) as caught:
        load(spec_at(NOWHERE, published), "pretrained", tmp_path)
    assert caught.value.what == f"{NOWHERE}/best.pth cannot be reached"
    assert caught.value.fix == (
        f"Download {NOWHERE}/best.pth elsewhere and put it at {tmp_path / 'best.pth'}, "
        "or give --weights FILE or --weights random."
    )


def test_a_damaged_file_that_cannot_be_replaced_is_named(published, tmp_path):
    (tmp_path / "best.pth").write_bytes(b"damaged")
    with pytest.raises(WeightsUnavailable, match=r"best.pth is damaged, and http://127.0.0.1:1/best.pth cannot be"):
        load(spec_at(NOWHERE, published), "pretrained", tmp_path)


def test_pretrained_by_its_tag(published, tmp_path):
    with pytest.raises(WeightsUnavailable, match="old.pth cannot be reached"):
        load(spec_at(NOWHERE, published), "pretrained:V1", tmp_path)


def test_auto_out_of_reach_is_random_and_says_why(published, tmp_path):
    info = load(spec_at(NOWHERE, published), "auto", tmp_path)
    assert (info.source, info.name, info.sha256) == ("random", None, None)
    assert "cannot be reached" in info.reason
    assert info.transform == get_spec(NAME).transform


@pytest.mark.parametrize("options", [{"num_classes": 10}, {"width_mult": 0.5}])
def test_official_weights_are_of_the_default_network(published, tmp_path, options):
    model = create_model(NAME, **options)
    info = load(spec_at(NOWHERE, published), "auto", tmp_path, model)
    assert info.source == "random"
    assert "are for 1000 classes and the default options" in info.reason
    with pytest.raises(WeightsError, match="are for 1000 classes and the default options"):
        load(spec_at(NOWHERE, published), "pretrained", tmp_path, model)


def test_a_model_without_official_weights(tmp_path):
    spec = dataclasses.replace(get_spec(NAME), checkpoints=())
    assert "no official weights of mobilenet_v3_small are published" in load(spec, "auto", tmp_path).reason
    with pytest.raises(WeightsError, match="no official weights"):
        load(spec, "pretrained", tmp_path)


def test_an_unknown_tag_lists_those_there_are(published, tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint .got V9; expected pretrained:V2, pretrained:V1"):
        load(spec_at(NOWHERE, published), "pretrained:V9", tmp_path)


def test_a_missing_file_lists_the_choices(published, tmp_path):
    with pytest.raises(
        WeightsError, match="no such weights file .got none.pth; expected auto, pretrained, pretrained:V2"
    ):
        load(spec_at(NOWHERE, published), "none.pth", tmp_path)


def test_random_weights_are_settled(tmp_path):
    one, two = create_model(NAME), create_model(NAME)
    assert load(get_spec(NAME), "random", tmp_path, one, seed=3).reason is None
    settle(two, (32, 32), seed=3)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_a_file(published, tmp_path):
    model = create_model(NAME, num_classes=3)
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {f"module.{name}": value.half() for name, value in model.state_dict().items()}}, path)
    loaded = create_model(NAME, num_classes=3)
    info = load(get_spec(NAME), str(path), tmp_path, loaded)
    assert (info.source, info.name, info.sha256, info.entry) == ("file", "mine.pth", sha256_of(path), "state_dict")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-6)
    assert all(parameter.dtype is torch.float32 for parameter in loaded.parameters())


def test_an_official_file_is_known_by_its_hash(published, tmp_path):
    path = tmp_path / "renamed.pth"
    path.write_bytes((published / "best.pth").read_bytes())
    info = load(spec_at(NOWHERE, published, OTHER), str(path), tmp_path)
    assert (info.source, info.name, info.transform) == ("official", "renamed.pth", OTHER)


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(published, tmp_path):
    model = create_model(NAME, num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match="trained for 1000 classes: --num-classes 1000"):
        load(get_spec(NAME), str(published / "best.pth"), tmp_path, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_that_are_not_numbers(tmp_path):
    model = create_model(NAME, num_classes=3)
    state = model.state_dict()
    state["classifier.3.bias"][1] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="NaN or infinity .got 1 tensors, the first classifier.3.bias"):
        load(get_spec(NAME), str(tmp_path / "w.pth"), tmp_path, create_model(NAME, num_classes=3))


def test_a_file_in_half_precision_is_loaded_as_float(tmp_path):
    trained = create_model("yolov5n", num_classes=2).half()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = create_model("yolov5n", num_classes=2)
    anchors = model.detect.anchors.clone()
    assert load(get_spec("yolov5n"), str(tmp_path / "w.pt"), tmp_path, model).source == "file"
    assert torch.equal(model.detect.anchors, anchors)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == (torch.int64 if "num_batches" in name else torch.float32)
        assert torch.equal(tensor, trained.state_dict()[name].to(tensor.dtype))
