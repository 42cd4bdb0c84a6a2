"""docs/zoo.json → docs/zoo.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEAD = """# The zoo: every model through the whole job

Made by `make zoo` (`benchmarks/zoo.py`): each registered model at its full size, by the commands that users type, on
seeded random weights and {images} synthetic photographs. Not measured on a GPU: engines are parsed and compiled by
TensorRT-RTX, FP16 and INT8 graphs are simulated on the CPU by their twins ([precision](precision.md)).

{machines}

"""
_NOTES = """
{verdict}

- **nodes**: as torch.export leaves the graph → simplified; by hand: torch.onnx.export and onnxsim without this tool.
- **FP32 to PyTorch**: largest error relative to the largest output (limit 1e-4), on synthetic images; **spread**: how
  much the outputs differ between images, relative to the largest, so that agreement proves something.
- **SQNR**: of the FP16 and INT8 twins against the FP32 graph; limits 40 and 10 dB. Random weights say little about the
  accuracy of INT8: that takes a trained network and its images.
- **INT8 MACs**: share of the multiply-accumulates that run in INT8.
- **seconds, peak**: wall clock of `export`, and of `build` with everything in it (calibration on the images, comparison
  with FP32, TensorRT-RTX); peak resident memory of the process.
"""


def render(known: dict[str, Any], specs: Sequence[Any]) -> str:
    """The page; models without results are listed as missing."""
    found = [(spec, known["models"][spec.name]) for spec in specs if spec.name in known["models"]]
    complete = [(spec, facts) for spec, facts in found if not facts.get("failed")]
    missing = [spec.name for spec in specs if spec.name not in known["models"]]
    images = next((facts["images"] for _, facts in complete), 0)
    parts = [
        _HEAD.format(images=images, machines="\n\n".join(sorted({facts["machine"] for _, facts in complete}))),
        _table(_GRAPHS, [_graph_row(spec, facts) for spec, facts in complete]),
        "\n",
        _table(_PRECISE, [_precise_row(spec, facts) for spec, facts in complete]),
        "\n",
        _table(_COSTS, [_cost_row(spec, facts) for spec, facts in complete]),
        _NOTES.format(verdict=_verdict(complete)),
        *(f"\n**{spec.name} failed**: {facts['failed']}\n" for spec, facts in found if facts.get("failed")),
        *([f"\nNot run yet: {', '.join(missing)}.\n"] if missing else []),
    ]
    return "".join(parts)


def _verdict(complete: Sequence[tuple[Any, dict[str, Any]]]) -> str:
    """What matters of all rows, counted: nodes against by hand, the limits of each precision, memory."""
    more = [s.name for s, f in complete if f["export"]["nodes"]["simplified"] > f["by_hand"]["nodes"]]
    far = [s.name for s, f in complete if (f["fp16"]["sqnr_db"] or 0) < 40 or (f["int8"]["sqnr_db"] or 0) < 10]
    most = max((facts[step]["peak_mb"] for _, facts in complete for step in _STEPS), default=0)
    return (
        f"{len(complete)} networks. More nodes than by hand: {', '.join(more) or 'none'}. Under the limits of FP16 or "
        f"INT8: {', '.join(far) or 'none'}. Most memory that any step took: {most / 1000:.1f} GB."
    )


_STEPS = ("export", "fp32", "fp16", "int8")
_GRAPHS = ("model", "input", "parameters", "GMACs", "nodes", "by hand", "FP32 to PyTorch", "spread")
_PRECISE = ("model", "FP16 SQNR dB", "INT8 SQNR dB", "INT8 MACs %", "FP32 plan MB", "FP16 plan MB", "INT8 plan MB")
_COSTS = ("model", "export s", "by hand s", "peak MB", "FP32 s", "peak MB", "FP16 s", "peak MB", "INT8 s", "peak MB")


def _graph_row(spec: Any, facts: dict[str, Any]) -> list[str]:
    export, nodes = facts["export"], facts["export"]["nodes"]
    return [
        spec.name,
        f"{spec.input_size[0]}x{spec.input_size[1]}",
        f"{export['parameters']:,}",
        f"{export['macs'] / 1e9:.3f}",
        f"{nodes['exported']} → {nodes['simplified']}",
        str(facts["by_hand"]["nodes"]),
        f"{export['relative']:.1e}",
        f"{export['spread']:.3f}",
    ]


def _precise_row(spec: Any, facts: dict[str, Any]) -> list[str]:
    plans = [f"{facts[precision]['plan_bytes'] / 1e6:.1f}" for precision in ("fp32", "fp16", "int8")]
    share = facts["int8"]["int8_mac_share"]
    figures = (facts["fp16"]["sqnr_db"], facts["int8"]["sqnr_db"], None if share is None else 100 * share)
    return [spec.name, *("" if figure is None else f"{figure:.1f}" for figure in figures), *plans]


def _cost_row(spec: Any, facts: dict[str, Any]) -> list[str]:
    export, hand = facts["export"], facts["by_hand"]
    row = [spec.name, f"{export['seconds']:.0f}", f"{hand['seconds']:.0f}", str(export["peak_mb"])]
    for precision in ("fp32", "fp16", "int8"):
        row += [f"{facts[precision]['seconds']:.0f}", str(facts[precision]["peak_mb"])]
    return row


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
