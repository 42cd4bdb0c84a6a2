"""The smallest network of every family through the whole job, at a small image size."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from commands import Cli
from placement import check_int8_graph, check_placement

from deploy.graph.files import load
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.specs import Precision
from models import get_spec, list_models

SPECS = [get_spec(name) for name in list_models()]
SMALLEST = [min((s for s in SPECS if s.family == f), key=lambda s: s.gmacs) for f in sorted({s.family for s in SPECS})]
# Not of a family of their own, but other blocks.
NAMES = [*(spec.name for spec in SMALLEST), "effnetv2_s_fused_se", "yolov5s_efficientnetv2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_the_whole_job(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, name: str):
    monkeypatch.chdir(tmp_path)
    side = 2 * get_spec(name).size_multiple if get_spec(name).task == "detection" else 96
    exported = cli.done("export", "--model", name, "--weights", "random", "--image-size", side, "--json").document
    graph = onnx.load(exported["file"]).graph
    assert not {"BatchNormalization", "Identity", "Pad", "Shape", "Dropout"} & {node.op_type for node in graph.node}
    check_placement(load(Path(exported["file"])))
    last = exported["parity"]["simplified"]
    assert last["relative"] < 1e-4
    assert last["spread"] > 2e-3, "agreement on what hardly differs proves nothing"

    for precision in ("fp32", "fp16", "int8"):
        data = ("--calibration-data", photos)
        built = cli.done(
            "build", f"{name}.onnx", "--precision", precision, *data, "--backend", "tensorrt_rtx", "--json"
        )
        assert Path(built.document["plan"]).stat().st_size > 10_000
    check_int8_graph(load(Path(f"{name}.int8.onnx")))
    others = [f"{name}.fp16.onnx", f"{name}.int8.onnx"]
    verified = cli("verify", f"{name}.onnx", *others, "--data", photos, "--json").document
    for verdict, precision in zip(verified["verdicts"], (Precision.FP16, Precision.INT8), strict=True):
        for output in verdict["outputs"].values():
            assert output["sqnr_db"] > DEFAULT_LIMITS[precision].sqnr_db, verdict["name"]
    answers = cli.done("infer", "--engine", others[-1], photos, "--json").document["images"]
    assert len(answers) == len(list(photos.iterdir()))
    assert any(image.get("predictions") or image.get("detections") for image in answers)
