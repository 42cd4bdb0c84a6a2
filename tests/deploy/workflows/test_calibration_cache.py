"""``build --calibration-cache``: ranges for TensorRT's implicit quantization, and ranges that come from one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import Cli, foreign, write_images
from graphs import old_graph

from deploy.errors import CheckFailed
from deploy.graph.qdq import scale_of
from deploy.quantize.trt_cache import parse
from deploy.workflows.judge import Judge

INT8 = ("build", "net.onnx", "--precision", "int8", "--backend", "none")
DATA = ("--calibration-data", "photos")
CACHE = ("--calibration-cache", "net.cache")
FOREIGN = """TRT-8401-MinMaxCalibration
(Unnamed Layer* 0) [Constant]_output: 0
image: 3caa54fc
convolved: 3d5c11b5
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    foreign(Path("net.onnx"))
    write_images(Path("photos"), 6)


def graph(path: str) -> onnx.GraphProto:
    return onnx.load(path).graph


@pytest.mark.parametrize("again", [DATA, ()])
def test_written_and_read_back_it_makes_the_same_graph(cli: Cli, again: tuple[str, ...]):
    made = cli.done(*INT8, *DATA, *CACHE, "--json").document
    assert made["calibration_cache"] == "net.cache"
    first, text = graph("net.int8.onnx"), Path("net.cache").read_bytes()
    Path("net.int8.calib.json").unlink()
    result = cli.done(*INT8, *again, *CACHE)
    assert "taking the ranges from net.cache (TRT-100300-EntropyCalibration2): no calibration" in result.err
    assert graph("net.int8.onnx") == first
    assert Path("net.cache").read_bytes() == text
    assert not Path("net.int8.calib.json").exists()
    assert ("was NOT audited" in result.err) == (not again)


def test_every_tensor_of_the_network_has_its_range(cli: Cli):
    """Not only those that Q/DQ pairs are placed on: a layer between two others needs both its borders."""
    images = np.random.default_rng(0).standard_normal((9, 3, 32, 32)).astype(np.float32)
    np.savez("arrays.npz", image=images)
    cli.done(*INT8, "--calibration-data", "arrays.npz", "--calibration-method", "max", *CACHE)
    model = onnx.load("net.onnx")
    names = [name for node in model.graph.node for name in node.output]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names[:-1])
    session = ort.InferenceSession(model.SerializeToString())
    seen = {"image": images, **dict(zip(names, session.run(names, {"image": images})))}
    amax = parse(Path("net.cache").read_bytes(), "net.cache")
    assert list(amax) == ["image", *names]
    assert amax == pytest.approx({name: float(np.abs(values).max()) for name, values in seen.items()}, rel=1e-5)


@pytest.mark.parametrize("opset", [13, 19])
def test_not_of_a_file_that_is_simplified_first(cli: Cli, opset: int):
    """Its batch norm folded, the tensor ``convolved`` is another than that of the file."""
    onnx.save(old_graph(opset), "net.onnx")
    error = cli.refused(2, *INT8, *DATA, *CACHE)
    assert error.startswith("a calibration cache is of the tensors of a file, and net.onnx is changed before")


def test_ranges_without_all_tensors_are_not_reused_for_a_cache(cli: Cli):
    cli.done(*INT8, *DATA, "--without", "equalization")
    assert "it has no range for tensor" in cli.done(*INT8, *DATA, *CACHE).err
    Path("net.cache").unlink()
    assert "reusing the ranges in net.int8.calib.json" in cli.done(*INT8, *CACHE).err
    assert Path("net.cache").exists()


def test_a_cache_that_tensorrt_made(cli: Cli):
    Path("net.cache").write_text(FOREIGN)
    result = cli.done(*INT8, *DATA, *CACHE)
    assert "calibrating on" not in result.err
    assert "none: ranges of a TRT-8401-MinMaxCalibration cache" in " ".join(result.out.split())
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph("net.int8.onnx").initializer}
    assert stored["image/scale"] == scale_of(parse(FOREIGN.encode(), "it")["image"])


def test_a_tensor_of_zeros_stays_fp16(cli: Cli):
    foreign(Path("net.onnx"), classes=16)
    lines = [*FOREIGN.splitlines(), "features: 0"]
    Path("net.cache").write_text("\n".join(lines))
    left_out = cli.done(*INT8, *CACHE, "--json").document["manifest"]["quantization"]["left_out"]
    assert left_out == {"classify": "its input 'features' was zero on every calibration image"}


def test_missing_tensors_are_named(cli: Cli):
    foreign(Path("net.onnx"), classes=16)
    Path("net.cache").write_text(FOREIGN)
    assert cli.refused(2, *INT8, *DATA, *CACHE) == (
        "the calibration cache net.cache lacks tensors of this graph (got no scale of features; expected one of each "
        "of the 2 tensors to quantize). Give the cache of this very graph, or the name of a new file and "
        "--calibration-data."
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("build", "net.onnx", "--precision", "fp16", *CACHE), "--calibration-cache holds INT8 ranges"),
        ((*INT8, *CACHE), "INT8 needs real images to calibrate with"),
        ((*INT8, *DATA, "--calibration-cache", "nowhere/net.cache"), "cannot write nowhere/net.cache"),
        ((*INT8, *DATA, "--calibration-cache", "net.onnx"), "net.onnx is no TensorRT calibration cache"),
        ((*INT8, *DATA, "--calibration-cache", "photos"), "cannot read photos (got is a directory)"),
    ],
)
def test_refused(cli: Cli, argv: tuple[str, ...], message: str):
    assert message in cli.refused(2, *argv)


def test_a_method_beside_ranges_that_are_there(cli: Cli):
    Path("net.cache").write_text(FOREIGN)
    error = cli.refused(2, *INT8, *DATA, *CACHE, "--calibration-method", "max")
    assert error.startswith("net.cache exists: ranges come from it, and nothing is calibrated")


def test_no_cache_is_left_by_a_build_that_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise CheckFailed("too far")

    monkeypatch.setattr(Judge, "compare_graph", refuse)
    assert cli(*INT8, *DATA, *CACHE).code == 1
    assert {path.name for path in Path().iterdir()} == {"net.onnx", "photos", "net.int8.calib.json"}
