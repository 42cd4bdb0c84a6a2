"""INT8 recipes, as a user asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, write_images
from damage import damaged, replace, weight
from onnx import numpy_helper

INT8 = ("net.onnx", "--precision", "int8", "--backend", "none")
DATA = ("--calibration-data", "photos")


def facts(cli: Cli, *argv: object) -> dict[str, object]:
    return cli.done("build", *INT8, *DATA, *argv, "--json").document["manifest"]["quantization"]


def test_best_is_nearer_than_fast_and_fast_than_ranges_alone(cli: Cli, here: Path):
    sqnr = []
    for argv in (["--without", "equalization"], [], ["--recipe", "best"]):
        document = cli.done("build", *INT8, *DATA, *argv, "--json").document
        sqnr.append(document["verdicts"]["graph"]["sqnr_db"])
    plain, fast, best = sqnr
    assert best > fast + 0.5
    assert fast > plain - 0.5, "random weights have channels alike: there is little to equalize"


def test_what_was_done_is_said(cli: Cli, here: Path):
    result = cli.done("build", *INT8, *DATA, "--recipe", "best", "--without", "rounding", "--without", "equalization")
    assert "recipe best: reconstruction, bias-correction" in " ".join(result.out.split())
    assert "correcting layers: reconstruction, bias-correction" in result.err
    assert "equaliz" not in result.err
    assert "too few to tell whether ranges have settled" in result.out  # 12 images


def test_the_manifest_tells_how_weights_were_changed(cli: Cli, here: Path):
    fast, best = facts(cli), facts(cli, "--recipe", "best")
    assert fast["corrected"] == {}
    assert (fast["recipe"], fast["parts"]) == ("fast", ["equalization"])
    assert fast["equalization"] == best["equalization"]
    assert len(best["corrected"]) == best["int8_layers"]
    assert all(sqnr > 0 for sqnr in best["corrected"].values())


def test_best_needs_the_images_even_with_ranges_at_hand(cli: Cli, here: Path):
    cli.done("build", *INT8, *DATA)
    error = cli.refused(2, "build", *INT8, "--recipe", "best")
    assert error == (
        "recipe best fits layers to images (got no --calibration-data). Give --calibration-data DIR, or --recipe fast."
    )
    assert "reusing the ranges" in cli.done("build", *INT8, *DATA, "--recipe", "best").err
    assert "reusing the ranges" in cli.done("build", *INT8).err


def test_ranges_of_an_equalized_graph_are_no_others(cli: Cli, here: Path):
    cli.done("build", *INT8, *DATA)
    assert "not reusing net.int8.calib.json: it was made with equalization" in (
        cli.done("build", *INT8, *DATA, "--without", "equalization").err
    )
    assert "not reusing net.int8.calib.json: it was made without equalization" in cli.done("build", *INT8, *DATA).err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--without", "rounding"], "recipe fast has no part rounding (expected equalization)"),
        (["--without", "luck"], "argument --without: invalid choice: 'luck'"),
        (["--recipe", "great"], "argument --recipe: invalid choice: 'great'"),
    ],
)
def test_what_there_is_not_is_refused(cli: Cli, here: Path, argv: list[str], text: str):
    assert text in cli.refused(2, "build", *INT8, *DATA, *argv)


@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_a_damaged_weight_is_found_behind_every_recipe(cli: Cli, here: Path, recipe: str):
    """Equalized and fitted weights are not the checkpoint's: they are held to what their file says of them."""
    cli.done("build", *INT8, *DATA, "--recipe", recipe)
    verify = ("verify", "net.onnx", "--data", "photos")
    cli.done(*verify, "net.int8.onnx")
    onnx_file = onnx.load("net.int8.onnx")
    name = next(t.name for t in onnx_file.graph.initializer if t.name.endswith("block.0.0.weight/quantized"))

    def swap_channels(model: onnx.ModelProto) -> None:
        levels = numpy_helper.to_array(weight(model, name)).copy()
        levels[[0, 1]] = levels[[1, 0]]
        replace(weight(model, name), levels)

    result = cli(*verify, damaged("net.int8.onnx", swap_channels))
    assert result.code == 1
    assert f"the weight of {name.removesuffix('.weight/quantized')}/Conv is not the reference's" in result.out


def test_equalization_changes_nothing_that_fp32_computes(cli: Cli, here: Path):
    """The INT8 graph of an equalized network, its Q/DQ taken out again, is the FP32 network within FP16's rounding."""
    cli.done("build", *INT8, *DATA)
    from deploy.graph.files import load
    from deploy.quantize.equalize import equalized
    from deploy.runtime.graphs import run_graph

    model = load(Path("net.onnx"))
    text = cli.done("inspect", "net.int8.onnx", "--json").document["manifest"]["quantization"]["equalization"]
    images = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    with run_graph(model) as before, run_graph(equalized(model, text)) as after:
        wanted, got = before.infer({"input": images})["logits"], after.infer({"input": images})["logits"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("option", [("--recipe", "best"), ("--without", "equalization")])
def test_a_recipe_is_of_int8_graphs(cli: Cli, here: Path, option: tuple[str, str]):
    error = cli.refused(2, "build", "net.onnx", "--precision", "fp16", "--backend", "none", *DATA, *option)
    assert error.startswith("--recipe or --without chooses how INT8 is made (got --precision fp16). Leave that out")
    cli.done("build", *INT8, *DATA)
    made = ("net.int8.onnx", "--precision", "int8", "--backend", "tensorrt_rtx")
    assert "net.int8.onnx is INT8 already: nothing to calibrate" in cli.refused(2, "build", *made, *DATA, *option)


def test_few_images_are_warned_of(cli: Cli, here: Path):
    warning = "warning: only 12 images: figures on so few say little of others. Give some hundred typical ones"
    assert warning in cli.done("build", *INT8, *DATA, "--recipe", "best").err
    Path("net.int8.calib.json").unlink()
    Path("photos").unlink()
    write_images(Path("photos"), 64)
    assert "figures on so few" not in cli.done("build", *INT8, *DATA).err
