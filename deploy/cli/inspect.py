"""What a graph, an engine or a model is: manifest, inputs and outputs, operators, precision and cost of each layer.

python -m deploy inspect mobilenet_v3_large.int8.onnx --layers
python -m deploy inspect mobilenet_v3_large.onnx --placement
python -m deploy inspect mobilenet_v3_large.int8.rtx.plan --json
python -m deploy inspect mobilenet_v3_large --image-size 320 --layers
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console
from deploy.cli.facts import engine_rows, inspection_rows, manifest_rows
from deploy.cli.options import add_architecture_options, architecture_options
from deploy.cli.placement import placement_document, placement_row, print_placement
from deploy.errors import InputError
from deploy.manifest import Manifest, read_plan_manifest
from deploy.specs import NetworkOptions

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploy.engine.layers import EngineLayer
    from deploy.graph.explain import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="FILE|NAME", help="an .onnx graph, a .plan engine, or a model's name")
    parser.add_argument(
        "--layers", action="store_true", help="list every layer with its precision and cost; those of a plan on a GPU"
    )
    parser.add_argument(
        "--placement",
        action="store_true",
        help="of an FP32 or INT8 graph: for each layer with a weight and each residual Add, INT8 or not, and why",
    )
    add_architecture_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    path, options = Path(args.what), architecture_options(args)
    if path.suffix in (".onnx", ".plan") and options != NetworkOptions():
        raise InputError(
            f"{path} is made for its classes and image size already",
            expected="--num-classes, --image-size and --option with a model's name",
        )
    if args.placement and path.suffix != ".onnx":
        fix = "Give the .onnx file that it was built of, or that export writes."
        raise InputError(f"placement is a property of a graph, and {path} is none", expected="an .onnx file", fix=fix)
    if path.suffix == ".onnx":
        return _graph(path, args.layers, args.placement, console)
    if path.suffix == ".plan":
        return _plan(path, args.layers, console)
    if ":" not in args.what and (path.exists() or path.suffix):
        raise InputError(f"{path} cannot be inspected", expected="an .onnx or .plan file, or a model's name")
    return _model(args.what, options, args.layers, console)


def _graph(path: Path, layers: bool, placement: bool, console: Console) -> int:
    from deploy.graph.files import load, read_manifest
    from deploy.graph.summary import summarize

    model = load(path)
    manifest, summary = read_manifest(model, str(path)), summarize(model)
    explained = _explained(model, manifest, asked=placement) if placement or "int8" in summary.precisions else None
    if console.as_json:
        document = {"file": str(path), "graph": asdict(summary), "manifest": manifest.to_dict() if manifest else None}
        document["placement"] = placement_document(explained, layers=placement) if explained else None
        console.document(document)
        return 0
    rows = [
        ["file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"],
        ["opset, IR version", f"{summary.opset}, {summary.ir_version}"],
        ["nodes", f"{summary.nodes}: " + _counts(summary.operators)],
        ["parameters", f"{summary.parameters:,}"],
        ["MACs per image", "unknown: the file lacks shapes" if summary.macs is None else _giga(summary.macs)],
        *([f"in {name}", _counts(counts)] for name, counts in summary.precisions.items() if name != "-"),
        *([placement_row(explained)] if explained else []),
    ]
    console.table(["graph", path.name], rows + manifest_rows(manifest))
    if layers:
        console.table(
            ["layer", "operator", "precision", "output", "parameters", "MACs", "% of MACs"],
            [
                [
                    layer.name,
                    layer.operator,
                    layer.precision,
                    layer.output,
                    *_cost(layer.parameters, layer.macs, summary.macs),
                ]
                for layer in summary.layers
            ],
        )
    if explained and placement:
        print_placement(explained, console)
    return 0


def _explained(model: ir.Model, manifest: Manifest | None, *, asked: bool) -> Explanation | None:
    """None for a graph that cannot be explained, which matters only where that was asked for."""
    from deploy.graph.explain import explain

    facts = (manifest and manifest.quantization) or {}
    try:
        return explain(model, facts.get("left_out"))
    except InputError:
        if asked:
            raise
        return None


def _cost(parameters: int, macs: int | None, total: int | None) -> list[str]:
    """Three columns of a layer; MACs of 0 are left blank, so that those that count stand out."""
    share = f"{100 * macs / total:.2f}" if macs and total else ""
    return [f"{parameters:,}" if parameters else "", "?" if macs is None else f"{macs:,}" if macs else "", share]


def _giga(count: int) -> str:
    return f"{count / 1e9:.3f} G"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _plan(path: Path, layers: bool, console: Console) -> int:
    from deploy.engine.plan import plan_kind
    from deploy.workflows.inspection import inspect_plan

    kind, manifest = plan_kind(path), read_plan_manifest(path)
    inspection = inspect_plan(path, manifest)
    if console.as_json:
        facts = {"kind": str(kind), "inspection": inspection.to_dict()}
        listed = [{**asdict(layer), "nodes": sorted(layer.nodes)} for layer in inspection.layers]
        document = {"file": str(path), **facts, "manifest": manifest.to_dict() if manifest else None}
        console.document({**document, "layers": listed} if layers else document)
        return 0
    rows = [["file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"], ["kind", str(kind)]]
    recorded = manifest.engine.inspection if manifest and manifest.engine else None
    found = recorded if recorded and inspection.audit is None and "layers" in recorded else inspection.to_dict()
    rows += [*(engine_rows(manifest.engine) if manifest and manifest.engine else []), *inspection_rows(found)]
    console.table(["engine", path.name], rows + manifest_rows(manifest))
    if layers and inspection.layers:
        console.table(["layer", "type", "ONNX nodes", "in", "out"], [_engine_layer(each) for each in inspection.layers])
    return 0


def _engine_layer(layer: EngineLayer) -> list[str]:
    read, made = (", ".join(dict.fromkeys(side.values())) for side in (layer.inputs, layer.outputs))
    return [layer.name, layer.kind, ", ".join(sorted(layer.nodes)), read, made]


def _model(name: str, options: NetworkOptions, layers: bool, console: Console) -> int:
    from deploy.runtime.networks import model_facts, network_cost

    facts, cost = model_facts(name, options), network_cost(name, options)
    if console.as_json:
        console.document({**facts, "cost": cost})
        return 0
    console.table(
        ["model", name], [[key.replace("_", " "), _text(value)] for key, value in facts.items() if value != ""]
    )
    if layers:
        console.table(
            ["layer", "type", "output", "parameters", "MACs", "% of MACs", "activations"],
            [_layer(layer, cost["macs"]) for layer in cost["layers"]],
        )
    console.table(["cost", f"of one image, {_shapes(cost['inputs'])}"], _totals(cost))
    return 0


def _layer(layer: dict[str, Any], macs: int) -> list[str]:
    outputs = ", ".join(map(str, layer["outputs"]))
    written = f"{layer['activations']:,}" if layer["activations"] else ""
    return [
        layer["path"] or "(itself)",
        layer["type"],
        outputs,
        *_cost(layer["parameters"], layer["macs"], macs),
        written,
    ]


def _totals(cost: dict[str, Any]) -> list[list[str]]:
    return [
        ["parameters", f"{cost['parameters']:,}"],
        ["MACs", _giga(cost["macs"])],
        ["FLOPs", _giga(cost["flops"])],
        ["activations", f"{cost['activations']:,}"],
        ["peak activation memory", f"{cost['peak_bytes'] / 1e6:.1f} MB in FP32"],
    ]


def _shapes(shapes: list[list[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={default}" for key, default in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
