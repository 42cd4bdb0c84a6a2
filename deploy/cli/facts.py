"""Facts of an artefact's making as rows of a table, alike in ``build`` and ``inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from deploy.cli.pareto import accuracy
from deploy.manifest import EngineInfo, Manifest

_SHOWN = 4


def quantization_rows(facts: dict[str, Any]) -> list[list[str]]:
    """How an FP16 or INT8 graph was made, by this version or one that knew less."""
    rows = []
    if "method" in facts:
        images = f"{facts['method']} over {facts['images']} images; {_settled(facts)}"
        rows.append(["calibration", images if facts["images"] else f"none: ranges of a {facts['method']} cache"])
        if "recipe" in facts:
            rows.append(["recipe", f"{facts['recipe']}: {', '.join(facts['parts']) or 'no part of it'}"])
        share = facts["int8_mac_share"]
        of_macs = f", {100 * share:.1f} % of the multiply-accumulates" if share is not None else ""
        rows.append(["in INT8", f"{facts['int8_layers']} layers{of_macs}; {len(facts['left_out'])} stay FP16"])
    if facts.get("refused"):
        rows.append(["refused in INT8", _some(list(facts["refused"]))])
    if "search" in facts:
        rows += accuracy(facts["search"])
    if facts.get("fp32_nodes"):
        rows.append(["in FP32", ", ".join(facts["fp32_nodes"])])
    return [*rows, *headroom_rows(facts)]


def inspection_rows(found: dict[str, Any] | None) -> list[list[str]]:
    """What the inspector found in an engine; nothing for one that was built before it was asked."""
    if found is None:
        return []
    if "layers" not in found:
        return [["engine's layers", f"not verifiable here: {found['not_verifiable']}"]]
    higher = found["higher_precision"]
    rows = [
        [
            "engine's layers",
            f"{found['layers']}; {found['int8_convolutions']} of {found['convolutions']} convolutions in INT8",
        ]
    ]
    if found["unfused_qdq"]:
        rows.append(["Q/DQ not fused", _some(found["unfused_qdq"])])
    if higher is None:
        rows.append(["higher precision", "not known: the graph it was built from is not here"])
    return [
        *rows,
        *([["higher precision", _some([f"{name}: {how}" for name, how in higher.items()])]] if higher else []),
    ]


def _some(names: Sequence[str]) -> str:
    """The first few and how many there are; --json names them all."""
    shown = "; ".join(names[:_SHOWN])
    return f"{len(names)}: {shown}{'; …' if len(names) > _SHOWN else ''}"


def _settled(facts: dict[str, Any]) -> str:
    """Whether fewer images would have been enough, or more would have changed something."""
    after, looks = facts.get("ranges_settled_after"), facts.get("convergence")
    if not looks:
        return "too few to tell whether ranges have settled"
    if after is None:
        last = max(map(int, looks))
        return f"ranges still moved after {last} (by {looks[str(last)]:.1f} dB): more may help"
    return f"ranges settled after {after}"


def headroom_rows(facts: dict[str, Any]) -> list[list[str]]:
    """How far FP16's range was from being left; nothing for a graph that says nothing of it."""
    audit = facts.get("range_audit")
    if audit is None:
        return []
    if not facts.get("fp16_headroom"):
        return [["FP16 headroom", audit]]
    nearest = facts["fp16_headroom"][0]
    times, tensor, peak = nearest["headroom"], nearest["tensor"], nearest["max"]
    return [["FP16 headroom", f"smallest {times:,.0f}× at {tensor}, which reaches {peak:.4g}"]]


def engine_rows(engine: EngineInfo) -> list[list[str]]:
    """What built a plan, for what, and how."""
    gpu = f"{engine.gpu} (compute capability {engine.compute_capability})" if engine.gpu else "no GPU"
    return [
        ["built by", f"{engine.flavour} {engine.version}"],
        ["batch", str(engine.batch)],
        ["built on", gpu],
        ["graph", f"{engine.onnx_file} (sha256 {engine.onnx_sha256[:12]})"],
        *([f"option {name}", str(value)] for name, value in engine.options.items() if value is not None),
    ]


def manifest_rows(manifest: Manifest | None) -> list[list[str]]:
    """What an artefact is and where it came from."""
    if manifest is None:
        return [["manifest", "none: this file was made by another tool"]]
    weights = manifest.weights
    rows = [
        ["model", f"{manifest.model} ({manifest.task})"],
        ["precision", str(manifest.precision)],
        ["weights", " ".join(filter(None, [weights.source, weights.name, weights.sha256 and weights.sha256[:12]]))],
        ["inputs", ", ".join(map(str, manifest.inputs))],
        ["outputs", ", ".join(map(str, manifest.outputs))],
        *([["NMS inside", str(manifest.nms)]] if manifest.nms else []),
        ["preprocessing", str(manifest.preprocessing) if manifest.preprocessing else "none"],
        ["labels", f"{len(manifest.labels)}: {', '.join(manifest.labels[:3])}, …" if manifest.labels else "none"],
        ["made by", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())],
    ]
    rows += [["parity", _parity(figures)] for figures in manifest.parity]
    facts = manifest.quantization or {}
    rows += quantization_rows(facts)
    return rows + [row for key in ("left_out", "fp32_nodes") for row in _by_reason(key, facts.get(key) or {})]


def _by_reason(key: str, reasons: dict[str, str]) -> list[list[str]]:
    """One row per reason and how many layers it holds for; --json names them all."""
    return [[key.replace("_", " "), f"{count}: {reason}"] for reason, count in Counter(reasons.values()).most_common()]


def _parity(figures: dict[str, Any]) -> str:
    if "matched" in figures:  # of a file that ends in NMS
        shares = ", ".join(f"{100 * share:.1f} % at IoU {overlap}" for overlap, share in figures["matched"].items())
        return f"against {figures.get('against')}: detections matched {shares}, {figures.get('images')} images"
    sqnr = figures.get("sqnr_db")
    decibel = f", SQNR {sqnr:.1f} dB" if isinstance(sqnr, float) else ""
    relative = figures.get("relative")
    error = f"max relative error {relative:.1e}" if isinstance(relative, float) else "not finite"
    fed = f"{figures.get('samples')} of {figures.get('input')}"
    return f"against {figures.get('against')}: {error}{decibel}, {fed}"
