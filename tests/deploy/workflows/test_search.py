"""A network with one layer that INT8 cannot do: the search finds it, and nothing else returns to FP16."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deploy.data.arrays import ArraySource
from deploy.data.replay import Replay
from deploy.errors import CheckFailed, InputError
from deploy.graph.twin import twin
from deploy.manifest import Manifest
from deploy.quantize.latency import Estimated
from deploy.quantize.recipe import Recipe
from deploy.runtime.graphs import run_graph
from deploy.specs import Precision, TensorSpec
from deploy.workflows.budget import open_budget
from deploy.workflows.quantize import Calibration, prepare_int8
from deploy.workflows.request import BuildRequest
from deploy.workflows.search import search_int8
from deploy.workflows.source import Source

INPUTS = (TensorSpec("input", "float32", ("batch", 3, 16, 16)),)
# The largest that FP16 has room for.
OUTLIER = 1500.0


class Told:
    """A reporter that remembers."""

    phases = None

    def __init__(self):
        self.notes, self.warnings, self.counted = [], [], {}
        self.note, self.warn = self.notes.append, self.warnings.append

    def counter(self, label):
        return lambda done, total: self.counted.setdefault(label, []).append((done, total))


def some_images(count, seed=1):
    """Coloured gradients with noise: without them every image would have the same mean."""
    rng = np.random.default_rng(seed)
    colour, slope = rng.standard_normal((2, count, 3, 1, 1))
    ramp = np.linspace(-1, 1, 16).reshape(1, 1, 1, 16)
    return (2 * colour + 2 * slope * ramp + 0.3 * rng.standard_normal((count, 3, 16, 16))).astype(np.float32)


def scale(model, name, factor, rows):
    """Multiply some output (``rows``) or input channels of a weight."""
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    array[rows] *= factor
    value.const_value = ir.tensor(array, name=name)


def planted(net, *, outlier=OUTLIER):
    """Convolutions, pool and classifier. One channel that ``ruined`` reads is huge, and its weights for it tiny.

    So FP32 sees the same network whatever ``outlier`` is, and INT8, with one scale for all channels, nothing else.
    """
    stem = net.op("Relu", "stem.relu", net.conv("stem", "input", (3, 16), 3))
    narrow = net.op("Relu", "narrow.relu", net.conv("narrow", stem, (16, 32)))
    ruined = net.op("Relu", "ruined.relu", net.conv("ruined", narrow, (32, 32), 3))
    last = net.op("Relu", "last.relu", net.conv("last", ruined, (32, 32)))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "average", last))
    net.op("Gemm", "logits", flat, net.weight("head.weight", 20, 32), net.weight("head.bias", 20), transB=1)
    model = net.model("logits", ["batch", 20])
    return ruin(model, outlier)


def ruin(model, outlier):
    scale(model, "narrow.weight", outlier, np.s_[0])
    scale(model, "narrow.bias", outlier, np.s_[0])
    scale(model, "ruined.weight", 1 / outlier, np.s_[:, 0])
    with run_graph(model) as runner:
        mean = runner.infer({"input": some_images(200)})["logits"].mean(axis=0)
    scale(model, "head.bias", 0, np.s_[:])
    bias = model.graph.initializers["head.bias"]
    bias.const_value = ir.tensor(-mean + bias.const_value.numpy(), name="head.bias")
    return model


class Searched:
    """Search a model for a budget of ``points`` on ``count`` images without labels."""

    def __init__(self, folder):
        self.folder, self.cache = folder, folder / "net.calib.json"

    def opened(self, model, points, count, warn=print):
        """The data and the budget."""
        np.savez(self.folder / "images.npz", input=some_images(count))
        data = ArraySource(self.folder / "images.npz", INPUTS)
        outputs = (TensorSpec("logits", "float32", ("batch", model.graph.outputs[0].shape[1])),)
        self.source = Source(Path("net.onnx"), model, Manifest("net", Precision.FP32, INPUTS, outputs), Precision.FP32)
        request = BuildRequest(Path("net.onnx"), Precision.INT8, calibration_data=self.folder, max_drop=points)
        return data, open_budget(request, self.source, data, warn)

    def __call__(self, model, points, count=400, told=None, change=lambda budget: budget):
        told = told or Told()
        data, budget = self.opened(model, points, count, told.warn)
        self.int8 = prepare_int8(self.source, Calibration(data, self.cache, "max", Recipe.of("fast", ["equalization"])))
        return search_int8(self.source, self.int8, data, change(budget), Estimated(8), told)

    def drop(self, kept):
        """Points lost with these nodes in FP16, counted here."""
        images = some_images(400)
        precise = self.int8.quantized(dict.fromkeys(kept, "kept")).graph
        with run_graph(self.source.graph) as reference, run_graph(twin(precise)) as runner:
            want, have = (each.infer({"input": images})["logits"].argmax(axis=1) for each in (reference, runner))
        return 100 * (want != have).mean()


@pytest.fixture
def searched(tmp_path):
    return Searched(tmp_path)


def chosen(made):
    (point,) = (point for point in made.facts["search"]["pareto"] if point["chosen"])
    return point


def test_the_ruined_layer_alone_returns_to_fp16(net, searched):
    made = searched(planted(net), 5.0)
    search = made.facts["search"]
    assert chosen(made)["fp16_layers"] == ["ruined_node"]
    assert made.facts["left_out"] == {"ruined_node": "for the accuracy budget of 5 points"}
    assert search["pareto"][0]["fp16_layers"] == []
    assert search["pareto"][0]["drop"] > 15
    assert chosen(made)["drop"] <= 5
    worst = min(search["sensitivity"], key=lambda row: row["sqnr_db"])
    assert worst["layer"] == "ruined_node"


def test_with_nothing_ruined_nothing_returns(net, searched):
    told = Told()
    made = searched(planted(net, outlier=1.0), 5.0, told=told)
    search = made.facts["search"]
    assert chosen(made)["fp16_layers"] == []
    assert (search["sensitivity"], made.facts["left_out"]) == ([], {})
    assert told.counted == {}, "nothing was searched"


def test_no_layer_in_fp16_can_be_spared(net, searched):
    """A budget so tight that the ruined layer alone is not enough."""
    made = searched(planted(net), 0.25)
    kept = chosen(made)["fp16_layers"]
    assert "ruined_node" in kept
    assert 1 < len(kept) < 5
    assert chosen(made)["drop"] <= 0.25
    for spared in kept:
        others = [name for name in kept if name != spared]
        assert searched.drop(others) > 0.25, spared


def test_the_same_search_finds_the_same(net, searched):
    model = planted(net)
    first, second = searched(model, 5.0), searched(model, 5.0)
    assert first.facts == second.facts
    assert ir.to_proto(first.graph).SerializeToString() == ir.to_proto(second.graph).SerializeToString()


def test_the_graph_is_the_one_that_was_judged(net, searched):
    model = planted(net)
    made = searched(model, 5.0)
    images = some_images(400)
    with run_graph(model) as reference, run_graph(twin(made.graph)) as runner:
        want, have = (each.infer({"input": images})["logits"].argmax(axis=1) for each in (reference, runner))
    assert chosen(made)["score"] == pytest.approx(100 * (want == have).mean())
    assert chosen(made)["drop"] == pytest.approx(100 * (want != have).mean())
    assert made.facts["search"]["fp32_score"] == 100


def test_the_table(net, searched):
    points = searched(planted(net), 5.0).facts["search"]["pareto"]
    shares = [point["int8_mac_share"] for point in points]
    assert (shares[0], shares[-1]) == (1, 0)
    assert shares == sorted(shares, reverse=True)
    assert points[-1]["latency"] == 1
    assert points[0]["latency"] < 1
    assert all(point["low"] <= point["drop"] <= point["high"] for point in points)
    worth = points[:-1]
    assert all(later["drop"] < sooner["drop"] for sooner, later in itertools.pairwise(worth))


def test_what_the_images_cannot_tell_is_said(net, searched):
    told = Told()
    point = chosen(searched(planted(net), 3.0, told=told))
    assert point["drop"] < 3 < point["high"]
    (warning,) = told.warnings
    figures = f"{point['drop']:.2f}, 95 % interval {point['low']:.2f} to {point['high']:.2f}"
    assert warning.startswith(f"400 images cannot tell whether the drop is within 3 points: {figures}; about ")
    assert warning.endswith(" could")
    assert "chosen on the 400 images that it is judged on: others may lose more" in told.notes
    assert any(note.endswith("an upper bound") for note in told.notes)


def test_progress_comes_to_its_end(net, searched):
    told = Told()
    searched(planted(net), 5.0, told=told)
    assert set(told.counted) == {"sensitivity of layers", "graphs tried"}
    assert told.counted["sensitivity of layers"] == [(done, 5) for done in range(1, 6)]
    *before, last = told.counted["graphs tried"]
    assert all(done < total for done, total in before)
    assert last[0] == last[1]


def test_many_images_are_halved(net, searched):
    told = Told()
    search = searched(planted(net), 5.0, count=2000, told=told).facts["search"]
    assert (search["images"], search["judged_on"]) == (1000, "images kept back from the choice")
    assert not any("judged on" in note for note in told.notes)


def test_a_budget_of_less_than_an_image_of_half_the_images_takes_all(net, searched):
    model = planted(net)
    whole, halves = (searched.opened(model, points, 2000)[1] for points in (0.08, 0.1))
    assert (whole.held_out, halves.held_out) == (False, True)
    assert [sum(len(feeds["input"]) for feeds, _ in part) for part in (whole.judging, halves.judging)] == [2000, 1000]


def test_images_kept_back_overrule_the_choice(net, searched):
    """All in INT8 is right on the images to choose on, since they were picked so: the others find the ruined layer."""
    model = planted(net)
    images = some_images(400)
    with run_graph(model) as reference, run_graph(twin(searched(model, 99.0).graph)) as ruined:
        want, have = (each.infer({"input": images})["logits"].argmax(axis=1) for each in (reference, ruined))
    easy, hard = (Replay(lambda part=part: [({"input": images[part]}, None)]) for part in (want == have, want != have))
    made = searched(model, 10.0, change=lambda budget: replace(budget, choosing=easy, judging=hard))
    assert "ruined_node" in chosen(made)["fp16_layers"]
    assert chosen(made)["drop"] <= 10
    assert made.facts["search"]["images"] == (want != have).sum()
    assert made.facts["search"]["pareto"][0]["drop"] == 100


def single(net):
    """Two convolutions and a classifier, of which only the second, ruined one is for INT8."""
    narrow = net.op("Relu", "narrow.relu", net.conv("narrow", "input", (3, 8)))
    ruined = net.op("Relu", "ruined.relu", net.conv("ruined", narrow, (8, 16), 3))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "average", ruined))
    net.op("Gemm", "logits", flat, net.weight("head.weight", 10, 16), net.weight("head.bias", 10), transB=1)
    return ruin(net.model("logits", ["batch", 10]), OUTLIER)


def test_where_only_fp16_keeps_the_budget(net, searched):
    with pytest.raises(CheckFailed) as failure:
        searched(single(net), 1.0)
    error = failure.value
    assert error.what == "INT8 misses the accuracy budget; no graph or engine was written"
    assert error.got.endswith(" points lost at best, with 0 of 1 layers in FP16; 0.00 in FP16 alone")
    assert (error.expected, error.fix) == ("1 or less", "Build with --precision fp16.")


def test_where_not_even_fp16_keeps_the_budget(net, searched, monkeypatch):
    """The answers of every precise graph are moved by one class."""
    monkeypatch.setattr("deploy.workflows.trials.twin", lambda graph: moved(twin(graph)))
    with pytest.raises(
        CheckFailed, match=r"Even FP16 loses more: give a larger --max-drop, or more images\."
    ) as failure:
        searched(planted(net), 1.0)
    assert "points lost at best, with 0 of 5 layers in FP16" in failure.value.got


def moved(model):
    bias = model.graph.initializers["head.bias"]
    bias.const_value = ir.tensor(100 * np.eye(20, dtype=np.float32)[3], name="head.bias")
    return model


@pytest.mark.parametrize(
    ("count", "points", "images", "least"), [(400, 0.2, 500, "0.25"), (300, 0.3, 334, "0.34"), (4, 1.0, 100, "25")]
)
def test_a_budget_finer_than_one_image(net, searched, count, points, images, least):
    with pytest.raises(InputError) as failure:
        searched(planted(net), points, count=count)
    error = failure.value
    assert error.what == "--max-drop is finer than one image of --calibration-data"
    assert error.got.startswith(f"{points:g} points; one of {count} images is ")
    assert error.expected == f"{images} images or more"
    assert error.fix == f"Give more images, or --max-drop {least} or more."
    assert not searched.cache.exists(), "it is said before anything is calibrated"
