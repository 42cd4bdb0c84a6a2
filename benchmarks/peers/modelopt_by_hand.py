"""INT8 by NVIDIA ModelOpt: ``modelopt.onnx.quantization.quantize`` on one array of images, as its examples do it.

A peer of ``benchmarks/quantization.py``, run by a Python of its own: ``pip install nvidia-modelopt[onnx] pillow``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from _by_hand import arguments, image_files, pixels, placement
from modelopt.onnx.quantization import quantize

METHODS = ("max", "entropy")


def main() -> None:
    args = arguments(__doc__, METHODS)
    chosen = placement(args)
    quantize(
        str(args.graph),
        calibration_data=np.stack([pixels(path, args.size) for path in image_files(args.images)]),
        calibration_method=args.method,
        calibration_eps=["cpu"],
        output_path=str(args.output),
        **({} if chosen is None else _placed(chosen, args.graph)),
    )


def _placed(chosen: dict[str, Any], graph: Path) -> dict[str, Any]:
    """The nodes by name, and of each residual addition the input that must not be quantized.

    As for DLA, so that it leaves out none of them by rules of its own: fully connected layers where it calibrates with
    single images, grouped convolutions whose channels are no multiple of 8. Where nodes are given it
    changes nothing else.
    """
    nodes = {node.name: node for node in gs.import_onnx(onnx.load(graph)).nodes}
    kept = [(nodes[source], nodes[add], nodes[source].outputs[0].name) for add, source in chosen["residuals"].items()]
    return {
        "nodes_to_quantize": [f"^{re.escape(name)}$" for name in chosen["nodes"]],
        "no_quantize_inputs": kept,
        "op_types_to_quantize": sorted(set(chosen["nodes"].values())),
        "target_dla": True,
    }


if __name__ == "__main__":
    main()
