"""One yardstick for every INT8 graph, whoever made it: its twin on labelled images, against the FP32 graph.

python benchmarks/_int8_judge.py net.onnx photos/eval a.int8.onnx b.int8.onnx

A twin takes the Q/DQ of any quantizer as they are: INT32 biases are dequantized like weights, Q/DQ pairs on weights
compute. ONNX Runtime's own session on the same graph says within 0.15 dB the same, and is many times slower where the
rest is FP16. A process of its own, so that the benchmark itself stays small: its memory would count as its children's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from _placement import difference, int8_mac_share

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.data.labelled import LabelledImages
from deploy.graph import files
from deploy.graph.placement import place
from deploy.graph.twin import twin
from deploy.parity.compare import Accumulator
from deploy.runtime.graphs import run_graph

BATCH = 32
Array = np.ndarray[Any, np.dtype[Any]]


class _Score:
    """Top-1, and distances from the reference's logits, over batches."""

    def __init__(self) -> None:
        self._right = self._seen = 0
        self._distance = Accumulator()

    def update(self, labels: Array, reference: Array, logits: Array) -> None:
        self._right += int((logits.argmax(axis=1) == labels).sum())
        self._seen += len(labels)
        self._distance.update(reference, logits)

    def facts(self) -> dict[str, Any]:
        compared = self._distance.result().to_dict()
        return {"top1": self._right / self._seen, "agreement": compared["top1"], "sqnr_db": compared["sqnr_db"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="the FP32 graph that export.py wrote")
    parser.add_argument("images", type=Path, help="a folder for each class")
    parser.add_argument("graphs", type=Path, nargs="*")
    args = parser.parse_args()
    print(json.dumps(judge(args.reference, args.images, args.graphs)))


def judge(reference: Path, images: Path, graphs: list[Path]) -> dict[str, Any]:
    """Scores and placement of each graph by its path, in an order of their own; those of the reference first."""
    fp32 = files.load(reference)
    models = {str(path): files.load(path) for path in graphs}
    scores = {name: _Score() for name in (str(reference), *models)}
    with ExitStack() as stack:
        runners = {name: stack.enter_context(run_graph(twin(model))) for name, model in models.items()}
        runner = stack.enter_context(run_graph(fp32))
        for feeds, labels in _batches(fp32, images):
            (want,) = runner.infer(feeds).values()
            scores[str(reference)].update(labels, want, want)
            for name, twin_runner in runners.items():
                scores[name].update(labels, want, *twin_runner.infer(feeds).values())
    placement = place(fp32)
    facts = {name: score.facts() for name, score in scores.items()}
    for name, model in models.items():
        facts[name] |= {"int8_mac_share": int8_mac_share(fp32, model), "difference": difference(placement, model)}
    return facts


def _batches(reference: Any, images: Path) -> Iterator[tuple[dict[str, Array], Array]]:
    manifest = files.read_manifest(reference, "the FP32 graph")
    assert manifest is not None
    assert manifest.preprocessing is not None
    for feeds, labels, _ in LabelledImages(images, manifest.preprocessing, manifest.inputs[0]).batches(BATCH):
        yield feeds, labels


if __name__ == "__main__":
    main()
