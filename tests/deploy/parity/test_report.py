"""The page: complete, well-formed, self-contained, and proof against hostile names."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest

from deploy.parity.layers import LayerReport, Range, RangeFinding, TensorLoss
from deploy.parity.report import render
from deploy.parity.report.plots import decibel
from deploy.parity.report.svg import Frame, power_of_ten, ticks

HOSTILE = """</script ></script><script>alert("1")</script><img src=x onerror='alert(2)'>&amp;"""
VOID = {"meta", "br", "wbr", "img", "input", "link", "hr"}


def loss(name, sqnr=30.0, own=35.0, step=2.0, peak=10.0, **changes):
    fields = {"is_layer": True, "finite": True, "fp16": True, "quantized": (f"{name}.in",), **changes}
    return TensorLoss(
        name,
        f"{name}/Conv",
        "Conv",
        sqnr_db=sqnr,
        own_sqnr_db=own,
        step_db=step,
        peak=peak,
        headroom=65504 / peak,
        **fields,
    )


def held(name, clip=2.0, peak=3.0):
    counts = tuple(int(count) for count in 1000 * np.exp(-np.arange(128) / 20))
    return Range(name, clip / 127, clip, peak, 0.001, counts, 4.0)


SEARCH = {
    "metric": "top1",
    "budget": 1.0,
    "sensitivity": [{"layer": f"layer{i}/Conv", "drop": i / 4, "sqnr_db": 30.0 - i, "macs": 1000} for i in range(3)],
    "pareto": [
        {
            "int8_mac_share": 1 - i / 4,
            "latency": 1.0 + i / 4,
            "latency_how": "estimated",
            "score": 0.8,
            "drop": 1.5 - i / 2,
            "low": 1.0 - i / 2,
            "high": 2.0 - i / 2,
            "fp16_layers": ["layer0/Conv"] * i,
            "chosen": i == 1,
        }
        for i in range(3)
    ],
}


def document(losses, name="net.int8.onnx", search=None, findings=(), ranges=None):
    ranges = tuple(held(f"{each.tensor}.in") for each in losses) if ranges is None else ranges
    output = {"sqnr_db": 28.7, "top1": 0.97, "finite": True}
    verdict = {"name": name, "precision": "int8", "execution": "simulated on CPU", "outputs": {"logits": output}}
    return {
        "reference": "net.onnx",
        "reference_execution": "executed on CPU",
        "inputs": "8 images from photos",
        "verdicts": [{**verdict, "failures": [], "passed": True}],
        "passed": True,
        "layers": LayerReport(8, tuple(losses), ranges, tuple(findings), search).to_dict(),
    }


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails where a tag is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.script = [], [], [], "", ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif not self.open or self.open[-1] != "style":
            self.text += data


LOSSES = [
    loss("a"),
    loss("b", 12.0, 14.5, 18.0),
    loss("c", 11.0, 33.0, 1.0),
    loss("relu", is_layer=False, quantized=()),
]


def test_every_layer_and_every_tensor_is_there():
    page = Page(render(document(LOSSES)))
    for each in LOSSES:
        assert each.layer in page.text
        assert each.tensor in page.text
    assert "12.0 dB" in page.text
    assert "14.5 dB" in page.text
    assert "30.0 → 12.0 dB" in page.text
    assert "loses most by itself: b/Conv" in page.text
    assert "clips at 2 of 3; 0.100\xa0% clipped" in page.text


def test_the_whole_document_is_in_it():
    whole = document(LOSSES, name=HOSTILE, search=SEARCH)
    html = render(whole)
    assert json.loads(Page(html).script) == whole
    # Browsers end a script at spellings that html.parser does not: none of their characters may be there.
    assert not set("<>&") & set(html.partition('id="document">')[2].partition("</script>\n</body>")[0])


def test_nothing_is_loaded_from_anywhere():
    html = render(document(LOSSES, search=SEARCH))
    for word in ("http", "src=", "href=", "url(", "@import", "//"):
        assert word not in html
    assert Page(html).tags.count("script") == 1


def test_hostile_names_are_text():
    hostile = loss(HOSTILE)
    finding = RangeFinding(HOSTILE, HOSTILE, HOSTILE, "stays FP32")
    search = json.loads(json.dumps(SEARCH).replace("layer1/Conv", "x"))
    search["sensitivity"][0]["layer"] = search["metric"] = search["pareto"][0]["latency_how"] = HOSTILE
    html = render(document([hostile, *LOSSES], HOSTILE, search, [finding]))
    page, tame = Page(html), Page(render(document([loss("x"), *LOSSES], "x", SEARCH, [RangeFinding(*"xxxx")])))
    # A name may be broken behind a slash or a dot; it opens nothing else.
    assert [tag for tag in page.tags if tag != "wbr"] == [tag for tag in tame.tags if tag != "wbr"]
    assert not any(name.startswith("on") or name == "src" for _, name, _ in page.attributes)
    assert HOSTILE in page.text
    assert html.count("</script>") == 1


def test_a_file_name_that_is_no_text_can_be_written():
    whole = document(LOSSES, name="net\udcff.onnx")
    html = render(whole).encode().decode()
    assert "<h1>net?.onnx</h1>" in html
    assert json.loads(Page(html).script) == whole


def test_overflow_and_exactness_are_told_apart():
    lost = loss("lost", -math.inf, -math.inf, math.inf, peak=1e5, finite=False)
    text = Page(render(document([loss("kept", math.inf, math.inf, None, fp16=False), lost]))).text
    assert "overflow" in text
    assert "exact" in text
    assert "0.66" in text  # the headroom of 1e5


def test_a_search_is_drawn_where_the_artefact_has_one():
    plain, searched = (Page(render(document(LOSSES, search=found))) for found in (None, SEARCH))
    assert "Sensitivity" not in plain.text
    for word in ("Sensitivity", "layer2/Conv", "0.50", "latency, estimated", "budget", "chosen"):
        assert word in searched.text


def test_a_search_without_a_front_still_shows_sensitivities():
    text = Page(render(document(LOSSES, search={**SEARCH, "pareto": []}))).text
    assert "Sensitivity" in text
    assert "Accuracy against latency" not in text


@pytest.mark.parametrize("other", [{}, {"sensitivity": 3}, {**SEARCH, "budget": "1"}, {**SEARCH, "pareto": [{}]}])
def test_a_search_that_another_version_wrote_is_left_to_programs(other):
    page = Page(render(document(LOSSES, search=other)))
    assert "Sensitivity" not in page.text
    assert json.loads(page.script)["layers"]["search"] == other


def test_tensors_near_the_limits_are_listed():
    finding = RangeFinding("a", "a/Conv", "'a' reaches 3e4", "stays FP32")
    assert "'a' reaches 3e4; it stays FP32" in Page(render(document(LOSSES, findings=[finding]))).text
    assert "No tensor comes near the limits of FP16." in Page(render(document(LOSSES))).text


@pytest.mark.parametrize("count", [1, 2, 300])
def test_any_number_of_layers_can_be_drawn(count):
    losses = [loss(f"layer{index}", own=40 - index / 20) for index in range(count)]
    page = Page(render(document(losses)))
    assert "nan" not in page.text
    coordinates = [float(value) for tag, name, value in page.attributes if tag == "circle" and name in ("cx", "cy")]
    assert len(coordinates) >= 4 * count
    assert all(math.isfinite(each) for each in coordinates)


def test_a_tensor_of_zeros_can_be_drawn():
    zeros = Range("a.in", 0.01, 1.27, 0.0, 0.0, (100, *[0] * 127), 1.0)
    dead = loss("a", math.nan, math.nan, None)
    page = Page(render(document([dead], ranges=(zeros,))))
    assert "clips at 1.27 of 0" in page.text


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 50, 5, [0, 10, 20, 30, 40, 50]), (11, 75, 4, [20, 40, 60]), (0, 0.3, 3, [0, 0.1, 0.2, 0.3]), (5, 5, 4, [5])],
)
def test_ticks_are_round_numbers(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected)


def test_a_frame_puts_values_inside_its_margins():
    frame = Frame(200, 100, (0, 10), (1, 1000), left=20, right=10, top=5, bottom=15, log=True)
    assert [frame.x(0), frame.x(10)] == [20, 190]
    assert [frame.y(1), frame.y(1000)] == [85, 5]
    assert frame.y(1000**0.5) == pytest.approx(45)
    assert frame.y(1e9) == 5  # beyond the range: at its edge


def test_powers_of_ten():
    assert [power_of_ten(10.0**power) for power in (-5, 0, 12)] == ["10⁻⁵", "10⁰", "10¹²"]


@pytest.mark.parametrize(
    ("peak", "finite", "said"), [(0.0, True, "no signal"), (1.5, True, "exact"), (0.0, False, "overflow")]
)
def test_what_json_has_no_number_for_is_told_apart(peak, finite, said):
    assert decibel({"sqnr_db": None, "peak": peak, "finite": finite}, "sqnr_db") == said
