"""What one writes by hand to export a model: torch.onnx.export, onnxsim, one comparison with PyTorch.

The peer of ``python export.py`` in ``benchmarks/export.py``. The same network definition, exporter, opset and
simplifier; no settled weights, no manifest, no comparison but one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import create_model, get_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenet_v3_large")
    parser.add_argument("-o", "--output", default="model.onnx")
    parser.add_argument("--count", action="store_true", help="print the number of nodes and compare nothing")
    args = parser.parse_args()

    model = create_model(args.model).eval()
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, *get_spec(args.model).input_size),),
        input_names=["input"],
        opset_version=19,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    simplified, done = onnxsim.simplify(program.model_proto)
    assert done
    onnx.save(simplified, args.output)
    if args.count:
        print(json.dumps({"nodes": len(simplified.graph.node)}))
        return

    images = torch.randn(2, 3, *get_spec(args.model).input_size)
    with torch.inference_mode():
        wanted = model(images).numpy()
    session = ort.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": images.numpy()})
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


if __name__ == "__main__":
    main()
