"""The quantizers that are compared, each a command: ours by recipe, ONNX Runtime and ModelOpt by method."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _int8_subjects import Network
from _measure import PEERS, ROOT, Cost, execute

# Row → options of build_engine.py.
OURS: dict[str, tuple[str, ...]] = {
    "fast": ("--recipe", "fast"),
    "best": ("--recipe", "best"),
    "max-drop 0.5": ("--recipe", "best", "--max-drop", "0.5", "--eval-data", "{evaluation}"),
}
# Parts of the best recipe, each left out once.
PARTS = ("equalization", "reconstruction", "rounding", "bias-correction")
ONNX_RUNTIME = ("MinMax", "Percentile", "Entropy")
MODELOPT = ("max", "entropy")
PLACEMENTS = OWN_PLACEMENT, OUR_PLACEMENT = ("own placement", "our placement")
RIVAL = "ONNX Runtime Percentile"  # its time is the measure of ours


class Failed(Exception):
    """A quantizer's exit code was not 0; the last thing it said."""


@dataclass(frozen=True)
class Row:
    """One way to quantize a network.

    Attributes:
        name: of our recipe, or of the quantizer and its method.
        side: ``ours`` or ``peer``.
        detail: what sets it apart from rows of the same name: whose placement, which images.
        command: makes ``output`` and nothing outside its folder.
    """

    name: str
    side: str
    detail: str
    command: tuple[str | Path, ...]
    output: Path

    def make(self) -> Cost:
        """Run the command in a folder without traces of an earlier run, such as ranges to use again.

        Raises:
            Failed: with the reason.
        """
        shutil.rmtree(self.output.parent, ignore_errors=True)
        self.output.parent.mkdir(parents=True)
        with tempfile.TemporaryFile() as said:
            code, cost = execute(self.command, self.output.parent, said, said)
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
        if code:
            raise Failed(next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}"))
        return cost


def ours(network: Network) -> list[Row]:
    ablated = {f"best without {part}": ("--recipe", "best", "--without", part) for part in PARTS}
    return [our_row(network, name, options) for name, options in (OURS | ablated).items()]


def our_row(
    network: Network,
    name: str,
    options: Sequence[str],
    images: Path | None = None,
    count: int = 256,
    detail: str = OUR_PLACEMENT,
) -> Row:
    """Our whole ``build_engine.py``: it also audits, compares its graph with the FP32 one and writes a manifest."""
    output = _output(network, name, detail)
    data = ["--calibration-data", images or network.calibration, "--calibration-images", str(count)]
    filled = [option.format(evaluation=network.evaluation) for option in options]
    fixed = [ROOT / "build_engine.py", network.graph, "--precision", "int8", "--backend", "none"]
    return Row(name, "ours", detail, (sys.executable, *fixed, *data, *filled, "-o", output), output)


def peers(network: Network, modelopt_python: Path | None) -> list[Row]:
    """Each at its own placement and at ours. ModelOpt needs a Python of its own; without one its rows are left out."""
    rows = [onnx_runtime_row(network, method, where) for method in ONNX_RUNTIME for where in PLACEMENTS]
    if modelopt_python is not None:
        script = (modelopt_python, PEERS / "modelopt_by_hand.py")
        chosen = [(method, where) for method in MODELOPT for where in PLACEMENTS]
        rows += [_peer(network, f"ModelOpt {method}", script, method, where) for method, where in chosen]
    return rows


def onnx_runtime_row(network: Network, method: str, detail: str = OWN_PLACEMENT, images: Path | None = None) -> Row:
    script = (sys.executable, PEERS / "quantize_by_hand.py")
    return _peer(network, f"ONNX Runtime {method}", script, method, detail, images)


def _peer(
    network: Network,
    name: str,
    script: tuple[str | Path, ...],
    method: str,
    detail: str,
    images: Path | None = None,
) -> Row:
    output = _output(network, name, detail)
    told = ["--placement", placement_file(network)] if detail == OUR_PLACEMENT else []
    fixed = (network.graph, images or network.calibration, "--size", str(network.size), "--method", method)
    return Row(name, "peer", detail, (*script, *fixed, *told, "-o", output), output)


def placement_file(network: Network) -> Path:
    return network.folder / "placement.json"


def write_placement(network: Network) -> None:
    """Our placement in words that the peers understand."""
    _child("_placement.py", network.graph, placement_file(network))


def judged(network: Network, graphs: Sequence[Path]) -> dict[str, Any]:
    """Scores of the FP32 graph and of each of ``graphs``, by path."""
    scores: dict[str, Any] = json.loads(_child("_int8_judge.py", network.graph, network.evaluation, *graphs))
    return scores


def _output(network: Network, name: str, detail: str) -> Path:
    return network.folder / "rows" / f"{name} {detail}".replace(" ", "-").lower() / "net.int8.onnx"


def _child(script: str, *args: str | Path) -> str:
    with tempfile.TemporaryFile() as out:
        code, _ = execute([sys.executable, ROOT / "benchmarks" / script, *args], None, out, sys.stderr.fileno())
        if code:
            raise SystemExit(f"exit code {code}: {script}")
        out.seek(0)
        return out.read().decode()
