"""The sections of the report, each HTML from a part of the JSON document, or nothing where it has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from deploy.parity.report import plots
from deploy.parity.report.plots import Row, decibel

# As many widths as a picture is drawn in: one for a desk, one for a phone.
WIDE, NARROW = 960, 360
_MOST_BARS = 40


def heading(document: Row, verdict: Row, layers: Row) -> str:
    """What was compared, whether it passed, and which layer loses most."""
    word = "passed" if verdict["passed"] else "failed"
    reasons = "".join(f'<p class="failed">{escape(reason)}</p>' for reason in verdict["failures"])
    facts = [
        *(_output_fact(name, output) for name, output in verdict["outputs"].items()),
        *_worst_facts(layers),
    ]
    return (
        f"<h1>{escape(verdict['name'])}</h1>"
        f'<p class="quiet">{escape(verdict["precision"].upper())} against {escape(document["reference"])}, '
        f"{escape(document['inputs'])}. {escape(_sentence(verdict['execution']))} "
        f'The limits of verify: <span class="{word}">{word}</span>.</p>{reasons}'
        f'<div class="facts">{"".join(facts)}</div>'
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _output_fact(name: str, output: Row) -> str:
    same = f"SQNR of {name}; the same top-1 for {100 * output['top1']:.1f} %"
    return _fact(decibel(output, "sqnr_db"), same)


def _worst_facts(layers: Row) -> list[str]:
    own, step = worst(layers, "largest_own_loss"), worst(layers, "largest_step")
    facts = []
    if own is not None:
        facts.append(_fact(decibel(own, "own_sqnr_db"), f"by itself, {own['layer']} loses most"))
    if step is not None:
        fall = decibel(step, "sqnr_db")
        if step["step_db"] is not None and step["sqnr_db"] is not None:
            fall = f"{step['sqnr_db'] + step['step_db']:.1f} → {fall}"
        facts.append(_fact(fall, f"accumulated SQNR falls most at {step['layer']}"))
    return facts


def _fact(figure: str, about: str) -> str:
    return f'<div class="fact"><b>{escape(figure)}</b><span>{escape(about)}</span></div>'


def accuracy(layers: Row) -> str:
    """SQNR by layer, drawn."""
    rows = shown(layers)
    named = worst(layers, "largest_own_loss"), worst(layers, "largest_step")
    return (
        "<h2>Accuracy by layer</h2>"
        '<p class="quiet">SQNR, signal power over error power: higher is better, 6 dB are a factor of two in the '
        'error. <span class="accumulated">Accumulated</span>: a layer\'s output in this graph, with all that was lost '
        'before it. <span class="own">Own</span>: what the layer loses by itself, its inputs being exact.</p>'
        + _both(lambda width: plots.sqnr_plot(rows, *named, width))
    )


def shown(layers: Row) -> list[Row]:
    """The rows of the short table: layers, and those named as the worst."""
    named = worst(layers, "largest_own_loss"), worst(layers, "largest_step")
    return [row for row in layers["tensors"] if row["is_layer"] or row in named]


def worst(layers: Row, key: str) -> Row | None:
    """The row that ``largest_own_loss`` or ``largest_step`` names."""
    rows: Sequence[Row] = layers["tensors"]
    return next((row for row in rows if layers[key] and row["tensor"] == layers[key]["tensor"]), None)


def fp16_range(layers: Row) -> str:
    """max |x| by layer, drawn, and the tensors that come near FP16's limits."""
    findings = [f"<li>{escape(found['why'])}; it {escape(found['outcome'])}</li>" for found in layers["findings"]]
    said = f"<ul>{''.join(findings)}</ul>" if findings else "<p>No tensor comes near the limits of FP16.</p>"
    return (
        "<h2>Range in FP16</h2>"
        '<p class="quiet">The largest |x| of each layer\'s output; '
        '<span class="accumulated">held in FP16</span> or <span class="own">in FP32</span>.</p>'
        + _both(lambda width: plots.range_plot(shown(layers), width))
        + said
    )


def search(found: Row | None) -> str:
    """What the build's search for layers to leave in FP16 has measured; nothing where another version wrote it."""
    if found is None or not _readable(found):
        return ""
    return _sensitivity(found) + _pareto(found)


_SEARCH_NUMBERS = {"sensitivity": ("drop",), "pareto": ("int8_mac_share", "latency", "drop", "low", "high")}


def _readable(found: Row) -> bool:
    try:
        rows = [(row, keys) for part, keys in _SEARCH_NUMBERS.items() for row in found[part]]
        numbers = [found["budget"], *(row[key] for row, keys in rows for key in keys)]
        texts = [found["metric"], *(row["layer"] for row in found["sensitivity"])]
        texts += [row["latency_how"] for row in found["pareto"]]
        lists = [row["fp16_layers"] for row in found["pareto"] if row["chosen"] in (True, False)]
    except (KeyError, TypeError):
        return False
    fits = zip((numbers, texts, lists), (int | float, str, list), strict=True)
    return all(isinstance(value, kind) for values, kind in fits for value in values)


def _sensitivity(found: Row) -> str:
    layers = sorted(found["sensitivity"], key=lambda layer: -layer["drop"])[:_MOST_BARS]
    most = max((layer["drop"] for layer in layers), default=0) or 1
    bars = [
        f'<div class="bar"><span>{_name(layer["layer"])}</span>'
        f'<i style="width:{100 * max(0, layer["drop"]) / most:.1f}%"></i><span>{layer["drop"]:.2f}</span></div>'
        for layer in layers
    ]
    return (
        f'<h2>Sensitivity</h2><p class="quiet">Points of {escape(plots.metric_of(found))} that are lost with this '
        f'layer alone in INT8.</p><div class="bars">{"".join(bars)}</div>'
    )


def _pareto(found: Row) -> str:
    if not found["pareto"]:
        return ""
    return (
        "<h2>Accuracy against latency</h2>"
        f'<p class="quiet">Each point is the network with other layers in FP16, with its interval; the build '
        f'<span class="own">chose</span> one within {found["budget"]:g} points.</p>'
        + _both(lambda width: plots.pareto_plot(found, width))
    )


def histograms(layers: Row) -> str:
    """A small picture of each quantized tensor."""
    if not layers["ranges"]:
        return ""
    cards = [
        f"<figure>{plots.histogram(found)}<figcaption><b>{_name(found['tensor'])}</b><br>clips at {found['clip']:.3g} "
        f"of {found['peak']:.3g}; {100 * found['clipped']:.3f}&nbsp;% clipped</figcaption></figure>"
        for found in layers["ranges"]
    ]
    return (
        '<h2>Quantized tensors</h2><p class="quiet">How often each |x| occurs, on a logarithmic scale; what lies '
        f'beyond the clip <span class="own">is clipped</span>.</p><div class="cards">{"".join(cards)}</div>'
    )


def table(layers: Row) -> str:
    """The figures of layers, and of every tensor where it is unfolded."""
    ranges = {found["tensor"]: found for found in layers["ranges"]}
    every = layers["tensors"]
    return (
        f"<h2>Layers</h2>{_rows(shown(layers), layers, ranges)}"
        f"<details><summary>all {len(every)} tensors</summary>{_rows(every, layers, ranges)}</details>"
    )


_COLUMNS = ("layer", "SQNR", "own", "max |x|", "FP16 headroom", "held in", "input clip", "clipped %")


def _rows(rows: Sequence[Row], layers: Row, ranges: Mapping[str, Row]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in _COLUMNS)
    named = worst(layers, "largest_own_loss"), worst(layers, "largest_step")
    body = "".join(_row(row, ranges, "worst" if row in named else "") for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(row: Row, ranges: Mapping[str, Row], class_: str) -> str:
    inputs = [ranges[name] for name in row["quantized"] if name in ranges]
    tightest = max(inputs, key=lambda found: found["clipped"], default=None)
    cells: list[Any] = [
        decibel(row, "sqnr_db"),
        decibel(row, "own_sqnr_db"),
        f"{row['peak']:.3g}",
        _factor(row["headroom"]),
        "FP16" if row["fp16"] else "FP32",
        f"{tightest['clip']:.3g}" if tightest else "",
        f"{100 * tightest['clipped']:.3f}" if tightest else "",
    ]
    written = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{class_}"><th scope="row">{_name(row["layer"])}</th>{written}</tr>'


def _name(name: str) -> str:
    """A layer's name, which may go on in another line behind a slash or a dot."""
    return escape(name).replace("/", "/<wbr>").replace(".", ".<wbr>")


def _factor(value: float | None) -> str:
    """A headroom: JSON has no infinity for that of a tensor of zeros."""
    if value is None:
        return "any"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _both(draw: Callable[[int], str]) -> str:
    """The picture twice: text in it has the same size on a desk and on a phone."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'
