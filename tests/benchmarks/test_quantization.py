"""What the benchmark of quantizers says is what its rows say, and each peer does what it is told."""

import json
import sys

import pytest

from deploy.graph import files
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.manifest import Manifest
from deploy.specs import Precision, Preprocessing, TensorSpec


@pytest.fixture
def report(benchmark_module):
    return benchmark_module("_int8_report")


@pytest.fixture
def placement(benchmark_module):
    return benchmark_module("_placement")


def _row(name, side="ours", **figures):
    return {"name": name, "side": side, **figures}


def test_a_verdict_holds_at_its_limit_and_is_missed_beyond_it(report):
    assert [report.Verdict("x", got, 2.0, least=True).holds for got in (1.99, 2.0, None)] == [False, True, None]
    assert [report.Verdict("x", got, 2.0).holds for got in (2.01, 2.0, None)] == [False, True, None]
    assert str(report.Verdict("MB", 612.0, 600.0)) == "MB: 612, promised at most 600: MISSED"
    assert str(report.Verdict("dB", None, 2.0, least=True)) == "dB: promised at least 2: not measured"


def test_each_recipe_is_held_to_its_own_figures(report):
    rows = [
        _row("fast", agreement=0.97, sqnr_db=25.0, top1=0.8),
        _row("best", agreement=0.97, sqnr_db=28.0, top1=0.81, seconds=601.0),
        _row("best", side="peer", agreement=1.0),
    ]
    holds = {verdict.what.removeprefix("photo1000, "): verdict.holds for verdict in report.photo1000_verdicts(rows)}
    assert holds == {
        "best: agreement with FP32": False,
        "best: SQNR in dB": True,
        "best: top-1": True,
        "fast: agreement with FP32": True,
        "fast: SQNR in dB": False,
        "max-drop 0.5: share of MACs in INT8": None,
        "best: seconds": False,
    }


def test_best_must_lead_the_best_peer_and_not_the_average(report):
    peers = [_row("A", "peer", sqnr_db=20.0), _row("B", "peer", sqnr_db=27.0), _row("C", "peer", failed="it crashed")]
    verdict = report.trained_verdict("net", [_row("best", sqnr_db=28.5), *peers])
    assert (verdict.what, verdict.got, verdict.holds) == ("net, best: dB ahead of B", 1.5, False)
    assert report.trained_verdict("net", [_row("best", sqnr_db=29.0), *peers]).holds
    assert report.trained_verdict("net", peers).holds is None
    assert report.trained_verdict("net", [_row("best", sqnr_db=29.0)]).holds is None


def test_cost_is_that_of_fast(report):
    rows = [_row("best", peak_mb=900.0), _row("fast", peak_mb=550.0)]
    assert [v.holds for v in report.cost_verdicts("net", rows, 1.01)] == [False, True]
    assert [v.holds for v in report.cost_verdicts("net", rows[:1], None)] == [None, None]


def test_memory_may_not_grow_with_images(report):
    peers = [_row("A", "peer", peak_mb=100.0), _row("A", "peer", peak_mb=9000.0)]
    few, many = _row("fast", peak_mb=400.0), _row("fast", peak_mb=449.0)
    assert [v.got for v in report.memory_verdicts([few, many, *peers])] == [49.0, 449.0]
    assert not next(report.memory_verdicts([few, _row("fast", peak_mb=451.0)])).holds


@pytest.mark.parametrize("count", [9, 256])
def test_subsets_are_disjoint_thirds_of_all(report, count):
    chosen = report.subsets(list(range(count)))
    thirds = [chosen[f"third {index}"] for index in (1, 2, 3)]
    assert sorted(item for third in thirds for item in third) == chosen["all"] == list(range(count))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1
    assert chosen["reversed"] == list(range(count - 1, -1, -1))


def test_subsets_are_compared_with_each_other_and_orders_with_each_other(report):
    sqnr = {"all": 29.0, "reversed": 28.7, "third 1": 27.0, "third 2": 28.1, "third 3": 27.5}
    thirds, orders = report.subset_verdicts("fast", sqnr)
    assert (round(thirds.got, 6), thirds.holds) == (1.1, False)
    assert (round(orders.got, 6), orders.holds) == (0.3, True)


def test_the_table_shows_figures_in_their_units_and_why_a_row_failed(report):
    figures = {"top1": 0.8021, "agreement": 0.9667, "sqnr_db": 28.449, "seconds": 5.14, "peak_mb": 260.3}
    rows = [_row("fast", detail="our placement", int8_mac_share=0.977, difference="", **figures)]
    text = report.table([*rows, _row("ModelOpt max", "peer", failed="out of memory")]).splitlines()
    assert text[2] == "| fast | our placement | 80.2 | 0.967 | 28.45 | 5.1 | 260 | 97.7 |  |"
    assert text[3].endswith("| failed: out of memory |")
    assert len({line.count("|") for line in text}) == 1


def test_a_row_starts_afresh_and_says_why_it_failed(benchmark_module, tmp_path):
    rows = benchmark_module("_int8_rows")
    output = tmp_path / "row" / "net.onnx"
    code = (
        "import pathlib, sys; print('ranges are missing' if pathlib.Path('old').exists() else 'none here'); sys.exit(2)"
    )
    output.parent.mkdir()
    (output.parent / "old").touch()
    with pytest.raises(rows.Failed, match=r"^none here$"):
        rows.Row("fast", "ours", "", (sys.executable, "-c", code), output).make()


@pytest.fixture
def int8(graph):
    """The FP32 graph of a classifier, and a function that makes INT8 graphs of it."""
    model = files.load(graph(32))

    def make(exclude=None):
        where = place(model, exclude)
        return insert_qdq(model, where, dict.fromkeys(where.tensors, 3.0))

    return model, make


@pytest.mark.parametrize("convert", [lambda model: model, to_fp16], ids=["fp32", "fp16"])
def test_placement_is_read_from_a_graph(placement, int8, convert):
    model, make = int8
    both = {("input", "conv1"), ("r1", "conv2")}  # the head has too few channels
    assert placement.readers(convert(make())) == placement.expected(place(model)) == both
    assert placement.difference(place(model), convert(make())) == ""
    fewer = convert(make({"conv2": "left out"}))
    assert placement.readers(fewer) == both - {("r1", "conv2")}
    assert placement.difference(place(model), fewer) == "1 fewer"
    assert placement.difference(place(model, {"conv2": "left out"}), make()) == "1 more"


def test_the_share_of_macs_is_that_of_nodes_which_read_int8(placement, int8):
    model, make = int8
    conv1, conv2, head = 16 * 27 * 8 * 8, 32 * 16 * 9 * 6 * 6, 32 * 10
    share = placement.int8_mac_share(model, to_fp16(make({"conv1": "left out"})))
    assert share == pytest.approx(conv2 / (conv1 + conv2 + head))


@pytest.fixture
def calibrated(script, benchmark_module, graph, tmp_path):
    """Quantize the classifier by ONNX Runtime at our placement; returns the graph and what it said."""
    photos, placed = tmp_path / "photos", tmp_path / "placement.json"
    photos.mkdir()
    benchmark_module("_measure").images(photos, 8, (40, 36))
    net = graph(32)
    placed.write_text(json.dumps(benchmark_module("_placement").instructions(files.load(net))))

    def quantize(method):
        options = ["--size", 32, "--method", method, "--placement", placed, "-o", tmp_path / f"{method}.onnx"]
        done = script("peers/quantize_by_hand.py", net, photos, *options)
        assert done.returncode == 0, done.stderr
        return files.load(tmp_path / f"{method}.onnx"), done.stdout

    return quantize


@pytest.mark.parametrize("method", ["MinMax", "Entropy"])
def test_onnx_runtime_quantizes_what_it_is_told(calibrated, placement, int8, method):
    made, said = calibrated(method)
    assert placement.readers(made) == placement.expected(place(int8[0])) != set()
    if method == "Entropy":  # with its default bins it would be MinMax
        assert "Number of histogram bins : 512 " in said
        assert "Number of quantized bins : 256" in said


def test_graphs_are_judged_against_labels_and_the_reference(benchmark_module, int8, tmp_path):
    model, make = int8
    spec = TensorSpec("input", "float32", ("batch", 3, 32, 32))
    reference, quantized, photos = tmp_path / "net.onnx", tmp_path / "int8.onnx", tmp_path / "photos"
    files.save(
        reference, model, Manifest("net", Precision.FP32, (spec,), (), preprocessing=Preprocessing(32, (32, 32)))
    )
    files.write(quantized, to_fp16(make()))
    for label in range(10):
        (photos / f"{label}").mkdir(parents=True)
    benchmark_module("_measure").images(photos / "0", 6, (32, 32))
    judge = benchmark_module("_int8_judge").judge
    facts = [judge(reference, photos, [quantized])]
    for label in range(1, 10):  # the same photographs as another class: each is right once
        (photos / f"{label}").rmdir()
        (photos / f"{label - 1}").rename(photos / f"{label}")
        (photos / f"{label - 1}").mkdir()
        facts.append(judge(reference, photos, [quantized]))
    assert [sum(fact[str(path)]["top1"] for fact in facts) for path in (reference, quantized)] == pytest.approx([1, 1])
    assert facts[0][str(reference)]["agreement"] == 1
    assert facts[0][str(quantized)]["difference"] == ""
    assert 5 < facts[0][str(quantized)]["sqnr_db"] < 60
