"""What ``bench`` measured, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console

if TYPE_CHECKING:
    from deploy.bench.figures import Figures
    from deploy.bench.result import Result
    from deploy.workflows.bench import BenchReport


def print_timings(report: BenchReport, console: Console) -> None:
    """Throughput and Host Latency of all; the parts of queries and the GPU's counters where they are known."""
    _print_throughput(report, console)
    _print_latency(report, console)
    _print_parts(report, console)
    _print_use(report, console)
    for about in report.files:
        how = f"the parts by {about['timed_by']}" if about["timed_by"] else "Host Latency is all it can tell"
        console.text(f"{about['file']}: {about['execution']}; {how}")
    console.text(f"{report.machine['processor']}; at most {report.host_memory / 1e6:.0f} MB of host memory for all")


def _print_throughput(report: BenchReport, console: Console) -> None:
    several = len(report.files) > 1
    columns = ["Throughput", "", "batch", "queries", "queries/s", "images/s"]
    rows = [
        [
            *_name(about, result),
            result.queries,
            f"{result.throughput_qps:.1f}",
            f"{result.images_per_second:.1f}",
            *([_ratio(result)] if several else []),
        ]
        for about, result in report.rows()
    ]
    console.table([*columns, *(["time per query, the first is 1"] if several else [])], rows)


def _print_latency(report: BenchReport, console: Console) -> None:
    columns = ["Host Latency, ms", "", "batch", "min", "mean", "p50", "p90", "p99", "max", "IQR %"]
    rows = [
        [
            *_name(about, result),
            *_figures(result.host_latency, "min", "mean", "median", "p90", "p99", "max"),
            f"{result.host_latency.iqr_percent:.1f}",
        ]
        for about, result in report.rows()
    ]
    console.table(columns, rows)


def _print_parts(report: BenchReport, console: Console) -> None:
    """One row for each part of trtexec's summary."""
    columns = ["On the GPU, ms", "", "batch", "", "min", "mean", "p50", "p90", "p99", "max"]
    rows = [
        [*_name(about, result), name, *_figures(figures, "min", "mean", "median", "p90", "p99", "max")]
        for about, result in report.rows()
        if result.parts is not None
        for name, figures in result.parts.named().items()
    ]
    if rows:
        console.table(columns, rows)


def _print_use(report: BenchReport, console: Console) -> None:
    """Power, clocks and memory of the GPU, where any of them is known."""
    used = [(about, result, _use(about, result)) for about, result in report.rows()]
    rows = [[*_name(about, result), *use] for about, result, use in used if any(use)]
    if rows:
        console.table(["Use of the GPU", "", "batch", "power W", "mJ/image", "SM clock MHz", "memory MB"], rows)


def _use(about: dict[str, Any], result: Result) -> Sequence[str]:
    energy, clocks, memory = result.energy_per_image_j, result.clock_mhz, about["gpu_memory_mb"]
    return (
        "" if result.power_w is None else f"{result.power_w:.1f}",
        "" if energy is None else f"{1e3 * energy:.2f}",
        "" if clocks is None else f"{clocks[0]} to {clocks[1]}",
        "" if memory is None else f"{memory:.0f} ({about['gpu_memory_from']})",
    )


def _figures(figures: Figures, *names: str) -> list[str]:
    return [f"{getattr(figures, name):.3f}" for name in names]


def _name(about: dict[str, Any], result: Result) -> list[object]:
    return [about["file"], about["precision"] or "", result.batch]


def _ratio(result: Result) -> str:
    ratio = result.ratio
    return "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
