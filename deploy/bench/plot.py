"""The document of ``bench --json``, drawn: one SVG, by itself or in a page. No script and no network are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deploy.parity.report.page import embedded
from deploy.parity.report.style import CSS
from deploy.parity.report.svg import Frame, dot, element, text, ticks

_WIDTH, _HEIGHT, _HEADING, _GAP, _LINE = 760, 250, 24, 20, 18
# Paul Tol's "bright" scheme: told apart by the colour-blind too.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_STYLE = """
svg.bench { background: #fff; font: 12px system-ui, "DejaVu Sans", sans-serif; }
.bench text { fill: #5d6875; } .bench text.heading { fill: #1c2530; font-weight: 600; }
.bench .grid { stroke: #dde2e8; } .bench .base { stroke: #5d6875; } .bench .series { fill: none; stroke-width: 1.8; }
"""

Row = Mapping[str, Any]


def draw(document: Row, *, page: bool) -> str:
    """SVG, or HTML with ``page``, of a document of :meth:`deploy.workflows.bench.BenchReport.to_dict`.

    For each batch the Host Latency that a share of the queries keeps to; then throughput by batch, of several.
    """
    results: Sequence[Row] = document["results"]
    colours = _colours(results)
    batches = list(dict.fromkeys(row["batch"] for row in results))
    panels = [_latencies([row for row in results if row["batch"] == batch], batch, colours) for batch in batches]
    if len(batches) > 1:
        panels.append(_throughputs(results, batches, colours))
    svg = _stacked(panels, _legend(colours))
    return _page(document, svg) if page else svg


def _colours(results: Sequence[Row]) -> dict[str, str]:
    files = dict.fromkeys(row["file"] for row in results)
    return {file: _COLOURS[index % len(_COLOURS)] for index, file in enumerate(files)}


def _latencies(rows: Sequence[Row], batch: int, colours: Mapping[str, str]) -> tuple[str, str]:
    """Heading and plot. What the slowest hundredth took would flatten all else: it ends at the top."""
    highest = max(max(row["host_latency_ms"]["p99"], row["host_latency_ms"]["p90"]) for row in rows)
    frame = Frame(_WIDTH, _HEIGHT, (0, 100), (0, 1.1 * highest))
    parts = [
        frame.y_axis(ticks(0, 1.1 * highest, 6), "ms"),
        frame.x_axis(ticks(0, 100, 10), "percent of the queries that took no longer"),
        *(_curve(frame, row["host_latency_curve"], colours[row["file"]]) for row in rows),
        *(_median(frame, row, colours[row["file"]]) for row in rows),
    ]
    label = f"Host Latency at batch {batch}"
    return label, frame.drawing(*parts, label=label)


def _median(frame: Frame, row: Row, colour: str) -> str:
    median = row["host_latency_ms"]["median"]
    return _dot(frame.x(50), frame.y(median), colour, f"{row['file']}: p50 {median:.3f} ms")


def _throughputs(results: Sequence[Row], batches: Sequence[int], colours: Mapping[str, str]) -> tuple[str, str]:
    """Heading and plot: images a second by batch, the batches being evenly spaced."""
    highest = 1.1 * max(row["images_per_second"] for row in results)
    places = {batch: place for place, batch in enumerate(sorted(batches))}
    frame = Frame(_WIDTH, _HEIGHT, (-0.3, len(places) - 0.7), (0, highest), left=56)
    sizes = sorted(batches)
    parts = [
        frame.y_axis(ticks(0, highest, 6), "images/s"),
        frame.x_axis(list(places.values()), "batch", lambda place: str(sizes[int(place)])),
    ]
    for file, colour in colours.items():
        rows = sorted((row for row in results if row["file"] == file), key=lambda row: int(row["batch"]))
        points = [[places[row["batch"]], row["images_per_second"]] for row in rows]
        parts.append(_curve(frame, points, colour))
        parts += [_dot(frame.x(x), frame.y(y), colour, f"{file}: {y:.1f} images/s") for x, y in points]
    return "Throughput by batch", frame.drawing(*parts, label="throughput by batch")


def _curve(frame: Frame, points: Sequence[Sequence[float]], colour: str) -> str:
    written = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return element("polyline", points=written, class_="series", stroke=colour)


def _dot(x: float, y: float, colour: str, tip: str) -> str:
    return element("g", dot(x, y, 3.5, "", tip), fill=colour)


def _legend(colours: Mapping[str, str]) -> list[str]:
    """A line for each file."""
    return [
        element("rect", x=4, y=_LINE * index + 6, width=14, height=4, fill=colour)
        + text(file, 26, _LINE * index + 12, "heading")
        for index, (file, colour) in enumerate(colours.items())
    ]


def _stacked(panels: Sequence[tuple[str, str]], legend: Sequence[str]) -> str:
    top = _LINE * len(legend) + _GAP
    parts = [element("style", _STYLE), *legend]
    for heading, drawing in panels:
        parts.append(text(heading, 4, top + 12, "heading"))
        inner = drawing.replace("<svg ", f'<svg x="0" y="{top + _HEADING}" width="{_WIDTH}" height="{_HEIGHT}" ', 1)
        parts.append(inner)
        top += _HEADING + _HEIGHT + _GAP
    label = "; ".join(heading for heading, _ in panels)
    size = f'xmlns="http://www.w3.org/2000/svg" class="bench" width="{_WIDTH}" height="{top}"'
    return f'<svg {size} viewBox="0 0 {_WIDTH} {top}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>\n'


def _page(document: Row, svg: str) -> str:
    machine = document["machine"]
    where = machine["processor"] + "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>bench</title>\n<style>{CSS}</style>\n</head>\n<body>\n<h1>Latency and throughput</h1>\n"
        f'<p class="quiet">{escape(where)}; {_how(document["settings"])}</p>\n{svg}{_table(document)}'
        f'<script type="application/json" id="document">{embedded(document)}</script>\n</body>\n</html>\n'
    )
    return html.encode(errors="replace").decode()


def _how(settings: Row) -> str:
    clients = settings["concurrency"]
    return f"{settings['duration_s']:g} s each, {clients} client{'s' if clients > 1 else ''} in a closed loop"


def _table(document: Row) -> str:
    columns = ("batch", "queries/s", "images/s", "p50 ms", "p90 ms", "p99 ms", "")
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
    rows = "".join(_table_row(row) for row in document["results"])
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _table_row(row: Row) -> str:
    latency = row["host_latency_ms"]
    figures = [f"{row['throughput_qps']:.1f}", f"{row['images_per_second']:.1f}"]
    figures += [f"{latency[key]:.3f}" for key in ("median", "p90", "p99")]
    cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in (row["batch"], *figures, row["execution"]))
    return f"<tr><th>{escape(row['file'])}</th>{cells}</tr>"
