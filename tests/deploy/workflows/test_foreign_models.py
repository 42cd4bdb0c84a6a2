"""Networks of torchvision and timm, exported by torch itself at other opsets, all the way to an engine."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torchvision_operators  # noqa: F401 - before torchvision and timm
from commands import Cli, write_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

SIZE = 64


def settled(network):
    """Batch norms that have seen something, so that outputs spread."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, SIZE, SIZE))
    return network.eval()


def export(network, path: str, opset: int, optimize: bool) -> None:
    """``optimize`` False leaves batch norms, constants and shape arithmetic in the graph, as older exporters did."""
    logging.disable(logging.WARNING)
    try:
        torch.onnx.export(
            network,
            (torch.randn(2, 3, SIZE, SIZE),),
            path,
            dynamo=True,
            opset_version=opset,
            optimize=optimize,
            dynamic_shapes=[{0: "batch"}],
            external_data=False,
            verbose=False,
        )
    finally:
        logging.disable(logging.NOTSET)


# Network, opset, optimized or not; how many of its additions are residual ones, and how many layers are in gates.
NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 18, False, 8, 0),
    "regnet_y": (lambda: torchvision.models.regnet_y_400mf(num_classes=10), 20, True, 16, 32),
    "convnext": (lambda: timm.create_model("convnext_atto", num_classes=10), 22, True, 0, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_others(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    make, opset, optimize, additions, gates = NETWORKS[name]
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export(settled(make()), "net.onnx", opset, optimize)
    write_images(Path("photos"), 16, size=(96, 80))
    assert ("BatchNormalization" in operators("net.onnx")) == (not optimize)
    for precision, least in (("fp32", None), ("fp16", 45), ("int8", 15)):
        data = () if precision == "fp32" else ("--calibration-data", "photos")
        built = cli.done("build", "net.onnx", "--precision", precision, *data, "--json").document
        assert Path(built["plan"]).stat().st_size > 1_000_000
        assert least is None or built["verdicts"]["graph"]["sqnr_db"] > least
    found = onnx.load("net.int8.onnx").graph
    assert operators("net.int8.onnx")["BatchNormalization"] == 0
    quantized = {name for node in found.node if node.op_type == "DequantizeLinear" for name in node.output}
    skips = [node for node in found.node if node.op_type == "Add" and quantized & set(node.input)]
    assert len(skips) == additions
    left_out = built["manifest"]["quantization"]["left_out"].values()
    assert sum("squeeze-and-excitation" in reason for reason in left_out) == gates


def operators(path: str) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)
