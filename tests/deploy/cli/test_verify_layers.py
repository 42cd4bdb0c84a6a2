"""``verify --layers`` as a user meets it: the table, the page, the document, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from commands import NETWORK, Cli
from damage import damaged, replace, scale_layer, weight
from onnx import numpy_helper


@pytest.fixture
def int8(cli: Cli, here: Path) -> str:
    cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "none")
    return "net.int8.onnx"


def test_layers_are_printed_with_the_worst(cli: Cli, here: Path, int8: str):
    result = cli.done("verify", "net.onnx", int8, "--data", "photos", "--layers")
    for word in ("SQNR dB", "own dB", "headroom", "input clip", "features.0.0/Conv", "features.11.block.3.0/Conv"):
        assert word in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith("largest own loss: ")]
    assert " dB by itself; largest step down: " in line


def test_a_damaged_layer_is_named(cli: Cli, here: Path, int8: str):
    def negate(model: onnx.ModelProto) -> None:
        tensor = weight(model, "features.4.block.0.0.weight/quantized")
        replace(tensor, -numpy_helper.to_array(tensor))

    result = cli("verify", "net.onnx", damaged(int8, negate), "--data", "photos", "--layers")
    assert result.code == 1
    assert "largest own loss: features.4.block.0.0/Conv, -" in result.out


def test_an_overflow_is_named(cli: Cli, here: Path):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    overflowing = damaged("net.fp16.onnx", scale_layer(2.0**10))
    result = cli("verify", "net.onnx", overflowing, "--data", "photos", "--layers")
    assert result.code == 1
    # What overflows has another name than any tensor of the reference; the first that has one shows it.
    assert "largest own loss: features.0.0/Conv, an overflow by itself" in result.out


def test_layers_as_json(cli: Cli, here: Path, int8: str):
    plain = cli.done("verify", "net.onnx", int8, "--data", "photos", "--json").document
    document = cli.done("verify", "net.onnx", int8, "--data", "photos", "--layers", "--json").document
    layers = document.pop("layers")
    assert document == plain
    assert set(layers) == {
        *("schema", "images", "largest_own_loss", "largest_step", "tensors", "ranges", "findings", "search")
    }
    assert layers["images"] == 12
    assert layers["search"] is None
    assert {row["tensor"] for row in layers["tensors"]} >= {"features.0.0/Conv", "features.0.2/HardSwish", "logits"}
    read = {tensor for row in layers["tensors"] for tensor in row["quantized"]}
    assert {found["tensor"] for found in layers["ranges"]} == read
    assert len(read) > 20
    assert all(sum(found["counts"]) for found in layers["ranges"])


def test_the_report_is_a_page_with_the_same_document(cli: Cli, here: Path, int8: str):
    arguments = ("verify", "net.onnx", int8, "--data", "photos", "--layers", "--report", "net.html", "--json")
    document = cli.done(*arguments).document
    html = Path("net.html").read_text("utf-8")
    embedded = html.partition('id="document">')[2].partition("</script>")[0]
    assert json.loads(embedded) == document
    assert [path.name for path in Path().glob("*net.html*")] == ["net.html"]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["net.onnx", "net.int8.onnx", "--layers"], "layers are judged on real images only (got no --data). Give some"),
        (
            ["net.onnx", "net.onnx", "net.onnx", "--layers", "--data", "photos"],
            "layers are shown of one graph (got 2 files; expected REFERENCE OTHER)",
        ),
        (
            ["net.onnx", "net.onnx", "--layers", "--data", "photos"],
            "an FP32 graph loses nothing (got net.onnx; expected an FP16 or INT8 graph)",
        ),
        (
            ["net.onnx", "net.int8.rtx.plan", "--layers", "--data", "photos"],
            "an engine has no inner tensors to look at (got net.int8.rtx.plan). Give the graph it was built from: "
            "net.int8.onnx.",
        ),
        (["net.onnx", "net.onnx", "--report", "r.html"], "--report is the page of --layers (got no --layers)"),
        (
            ["net.onnx", "net.onnx", "--layers", "--data", "photos", "--report", "no/r.html"],
            "cannot write no/r.html (got no such file or directory)",
        ),
    ],
)
def test_what_is_refused_of_layers(cli: Cli, here: Path, argv: list[str], error: str):
    assert error in cli.refused(2, "verify", *argv)


def test_a_model_by_name_has_no_layers_to_compare(cli: Cli, here: Path, int8: str):
    arguments = ("mobilenet_v3_small", int8, "--data", "photos", "--layers", *NETWORK)
    error = cli.refused(2, "verify", *arguments)
    assert error.startswith(
        "layers are those of ONNX graphs (got the model 'mobilenet_v3_small'; expected an .onnx file)"
    )


def test_a_graph_with_names_of_its_own_has_none_either(cli: Cli, here: Path, int8: str):
    def rename(model: onnx.ModelProto) -> None:
        computed = {name for node in model.graph.node for name in node.output} - {"logits"}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"their:{name}" if name in computed else name for name in names]
        del model.graph.value_info[:]

    error = cli.refused(2, "verify", damaged("net.onnx", rename), int8, "--data", "photos", "--layers")
    assert error.startswith(
        "the graphs have no layers in common that could be compared (got 1 tensors of the same name"
    )


@pytest.mark.parametrize("page", ["net.onnx", "./net.int8.onnx"])
def test_no_page_takes_the_place_of_a_graph(cli: Cli, here: Path, int8: str, page: str):
    before = Path(page).read_bytes()
    arguments = ("net.onnx", int8, "--data", "photos", "--layers", "--report", page)
    assert "is compared: it will not be overwritten" in cli.refused(2, "verify", *arguments)
    assert Path(page).read_bytes() == before
