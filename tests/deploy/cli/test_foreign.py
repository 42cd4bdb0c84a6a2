"""Graphs that other tools made, without a manifest."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from commands import Cli, foreign, save
from onnx import TensorProto, helper

CLASSES = "abcde"
ASSUMED = "assuming 'resize 37 bilinear, crop 32x32' with ImageNet's mean and std"


@pytest.fixture
def vector(here: Path) -> None:
    """``vector.onnx``: no image goes in."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 7]) for name in "xy")
    save(Path("vector.onnx"), helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], name="s")], "v", [x], [y]))


def test_the_default_preprocessing_is_stated(cli: Cli, here: Path):
    foreign(Path("foreign.onnx"))
    result = cli.done("infer", "--engine", "foreign.onnx", "photos", "--json")
    assert ASSUMED in result.err
    assert result.document["preprocessing"]["resize"] == 37
    assert result.document["model"] is None
    for verb, *argv in (("verify", "foreign.onnx", "foreign.onnx"), ("eval", "foreign.onnx", "--data", "classes")):
        for name in CLASSES:
            Path("classes", name).mkdir(parents=True, exist_ok=True)
        Path("classes/a/0.png").write_bytes(Path("photos/000.png").read_bytes())
        assert ASSUMED in cli.done(verb, *argv).err


def test_any_image_size_asks_for_one(cli: Cli, here: Path):
    foreign(Path("any.onnx"), ("N", 3, "H", "W"))
    wanted = "this graph says no image size (got image float32[N, 3, H, W]). Give --image-size S."
    assert cli.refused(2, "infer", "--engine", "any.onnx", "photos") == wanted
    result = cli.done("infer", "--engine", "any.onnx", "photos", "--image-size", 48, "--json")
    assert result.document["preprocessing"]["crop"] == [48, 48]


def test_any_image_size_in_verify_and_eval(cli: Cli, here: Path):
    foreign(Path("any.onnx"), ("N", 3, "H", "W"))
    for name in CLASSES:
        Path("classes", name).mkdir(parents=True)
    Path("classes/a/0.png").write_bytes(Path("photos/000.png").read_bytes())
    assert cli.refused(2, "eval", "any.onnx", "--data", "classes").endswith("Give --image-size S.")
    cli.done("eval", "any.onnx", "--data", "classes", "--image-size", 48)
    foreign(Path("fixed.onnx"))
    verdict = cli.done("verify", "any.onnx", "fixed.onnx", "--data", "photos", "--image-size", 32, "--json").document
    assert verdict["verdicts"][0]["outputs"]["scores"]["samples"] == 12


def test_an_engine_takes_one_image_size(cli: Cli, here: Path):
    foreign(Path("any.onnx"), ("N", 3, "H", "W"))
    error = cli.refused(2, "build", "any.onnx", "--precision", "fp16")
    assert error == (
        "input 'image' of any.onnx has a dynamic axis other than the batch (got image float32[N, 3, H, W]; expected "
        "only the first axis dynamic). Give --image-size S, or export the model with a fixed image size."
    )


def test_what_is_no_image_classifier(cli: Cli, here: Path, vector: None):
    wanted = (
        "nothing says how images are prepared for this graph, and its inputs are not those of an image network "
        "(got x float32[N, 7]; expected one input [batch, 3, height, width] or [batch, height, width, 3], float32, "
        "float16 or uint8). Feed arrays: verify and build take a FILE.npz."
    )
    assert cli.refused(2, "infer", "--engine", "vector.onnx", "photos") == wanted
    Path("classes/a").mkdir(parents=True)
    assert cli.refused(2, "eval", "vector.onnx", "--data", "classes") == wanted


def test_it_is_still_inspected_built_and_verified(cli: Cli, here: Path, vector: None):
    assert "none: this file was made by another tool" in cli.done("inspect", "vector.onnx").out
    built = cli.done("build", "vector.onnx", "--precision", "fp16", "--json")
    assert "no image preprocessing fits it" in built.err
    assert built.document["verdicts"]["graph"]["sqnr_db"] > 40
    cli.done("verify", "vector.onnx", "vector.fp16.onnx")
    error = cli.refused(2, "build", "vector.onnx", "--precision", "int8", "--calibration-data", "photos")
    assert error.endswith("Give an .npz file with arrays named x instead.")


def test_a_fixed_batch_takes_any_number_of_images_and_builds_for_its_own(cli: Cli, here: Path):
    foreign(Path("four.onnx"), (4, 3, 32, 32))
    assert len(cli.done("infer", "--engine", "four.onnx", "photos", "--json").document["images"]) == 12
    built = cli.done("build", "four.onnx", "--precision", "fp16", "--json").document
    assert built["manifest"]["engine"]["batch"] == {"min": 4, "opt": 4, "max": 4}
    error = cli.refused(2, "build", "four.onnx", "--precision", "fp32", "--batch", "1:4:9")
    assert error.startswith("four.onnx has a fixed batch (got --batch 1:4:9; expected 4). Leave --batch out")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_fixed_batch_is_calibrated_with_any_number_of_images(cli: Cli, here: Path, precision: str):
    foreign(Path("five.onnx"), (5, 3, 32, 32))
    argv = ("five.onnx", "--precision", precision, "--calibration-data", "photos", "--backend", "none", "--json")
    assert cli.done("build", *argv).document["verdicts"]["graph"]["samples"] == 12


def test_an_engine_of_external_data(cli: Cli, here: Path):
    model = onnx.load(foreign(Path("foreign.onnx")))
    onnx.save(model, "net2.onnx", save_as_external_data=True, location="net2.bin", size_threshold=0)
    assert cli.done("build", "net2.onnx", "--precision", "fp32", "--json").document["plan"] == "net2.fp32.rtx.plan"


@pytest.mark.parametrize("metadata", [False, True])
def test_an_fp16_graph_is_simulated_whatever_its_manifest_says(cli: Cli, here: Path, metadata: bool):
    """Other tools drop the manifest, or convert the graph and keep it."""
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    graph = onnx.load("net.fp16.onnx")
    del graph.metadata_props[:]
    if metadata:
        graph.metadata_props.extend(onnx.load("net.onnx").metadata_props)
    onnx.save(graph, "foreign.onnx")
    verdict = cli.done("verify", "net.onnx", "foreign.onnx", "--json").document["verdicts"][0]
    assert verdict["precision"] == "fp16"
    assert verdict["execution"] == "simulated on CPU by the twin of the FP16 graph"


def test_probabilities_are_not_flattened_by_a_second_softmax(cli: Cli, here: Path):
    model = onnx.load(foreign(Path("logits.onnx")))
    output = model.graph.output[0]
    logits = cli.done("infer", "--engine", "logits.onnx", "photos", "--json").document["images"]
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Softmax", ["before"], [output.name], name="softmax"))
    onnx.save(model, "softmax.onnx")
    softmax = cli.done("infer", "--engine", "softmax.onnx", "photos", "--json").document["images"]
    for one, other in zip(logits, softmax):
        for mine, theirs in zip(one["predictions"], other["predictions"]):
            assert mine["index"] == theirs["index"]
            assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-6)


def test_several_outputs_are_compared_one_by_one(cli: Cli, here: Path):
    foreign(Path("two.onnx"), hidden=True)
    foreign(Path("one.onnx"))
    cli.done("build", "two.onnx", "--precision", "fp16", "--backend", "none")
    verdict = cli.done("verify", "two.onnx", "two.fp16.onnx", "--json").document["verdicts"][0]
    assert verdict["outputs"].keys() == {"scores", "features"}
    error = cli.refused(2, "verify", "two.onnx", "one.onnx")
    assert error == "the files have different outputs (got ['scores']; expected ['scores', 'features'])"


def test_external_data_beside_the_graph(cli: Cli, here: Path):
    model = onnx.load(foreign(Path("foreign.onnx")))
    Path("sub").mkdir()
    onnx.save(model, "sub/net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    cli.done("infer", "--engine", "sub/net.onnx", "photos/000.png")
    cli.done("build", "sub/net.onnx", "--precision", "fp16", "--backend", "none", "-o", "alone.onnx")
    Path("sub/net.bin").unlink()
    assert cli.done("inspect", "alone.onnx", "--json").document["graph"]["opset"] == 19
    assert cli.refused(2, "build", "sub/net.onnx", "--precision", "fp16").startswith("cannot read sub/net.onnx (got ")
