"""The verb export: what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import SMALL, Cli, Result, script, snapshot

from deploy.errors import CheckFailed
from deploy.manifest import Manifest
from deploy.parity.limits import Limits
from models import create_model

OPTIONS = {"num_classes": 10, "width_mult": 0.5, "reduced_tail": True}


def small_model(**changes: object) -> torch.nn.Module:
    return create_model("mobilenet_v3_small", **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def by_script(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("script")
    return folder, script("export", *SMALL, "--json", cwd=folder)


def test_the_script_prints_one_document_and_writes_one_file(by_script: tuple[Path, Result]):
    folder, result = by_script
    assert result.code == 0, result.err
    assert set(snapshot(folder)) == {"mobilenet_v3_small.onnx"}
    document = result.document
    assert document["file"] == "mobilenet_v3_small.onnx"
    assert document["bytes"] == (folder / "mobilenet_v3_small.onnx").stat().st_size
    assert document["parity"].keys() == {"exported", "simplified"}
    assert all(step["relative"] < 1e-4 and step["spread"] > 1e-3 for step in document["parity"].values())
    assert result.err == "warning: the weights are RANDOM (no checkpoint was loaded): predictions mean nothing\n"


def test_the_file_says_what_it_is_and_nothing_of_where_it_was_made(by_script: tuple[Path, Result]):
    model = onnx.load(by_script[0] / "mobilenet_v3_small.onnx")
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    manifest = Manifest.from_json(entry.value, "the file")
    assert entry.key == "deploy"
    assert manifest.weights.source == "random"
    assert json.loads(manifest.to_json()) == by_script[1].document["manifest"]
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.crop == (64, 64)
    assert (model.ir_version, model.opset_import[0].version) == (10, 19)
    assert b".py" not in model.SerializeToString()


def test_for_people(cli: Cli, empty: Path):
    result = cli.done("export", *SMALL, "-o", "net.onnx", "--no-simplify")
    assert "exported and equal to PyTorch" in result.out
    assert re.search(r"file\W+net\.onnx \(0\.7 MB\)", result.out)
    assert result.err.splitlines()[:2] == ["loading mobilenet_v3_small", "exporting with torch.export"]
    assert "simplifying" not in result.err


def test_a_fixed_batch_labels_and_an_existing_file_in_a_folder(cli: Cli, empty: Path):
    Path("out").mkdir()
    Path("out/mobilenet_v3_small.onnx").write_text("an older one")
    Path("labels.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    result = cli.done("export", *SMALL, "--batch", 3, "--labels", "labels.txt", "-o", "out", "--json")
    manifest = result.document["manifest"]
    assert manifest["inputs"][0]["shape"] == [3, 3, 64, 64]
    assert manifest["labels"][9] == "class 9"
    assert [path.name for path in Path("out").iterdir()] == ["mobilenet_v3_small.onnx"]
    onnx.checker.check_model("out/mobilenet_v3_small.onnx")


def test_the_list(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.runtime.networks.resolve", None)  # a list of facts makes no networks
    models = {model["name"]: model for model in cli.done("export", "--list", "--json").document}
    assert models["mobilenet_v3_large"]["parameters"] == 5_483_032
    assert models["mobilenet_v3_large"]["gmacs"] == 0.217
    assert all(model.keys() >= {"input_size", "top1", "task", "aliases", "note"} for model in models.values())
    table = cli.done("export", "--list").out
    assert all(name in table for name in models)
    assert re.search(r"mobilenet_v3_large +5,483,032 +0\.217 +224x224 +75\.27", table)


def test_the_list_shows_notes_where_there_are_some(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    facts = {"name": "net", "parameters": 1234, "gmacs": 1.5, "input_size": "8x8", "top1": None, "aliases": ["n"]}
    for note, columns in (("not to be mistaken for nets", "aliases +note"), ("", "aliases *\n")):
        monkeypatch.setattr("deploy.runtime.networks.model_table", lambda note=note: [{**facts, "note": note}])
        table = cli.done("export", "--list").out
        assert re.search(columns, table)
        assert re.search(rf"net +1,234 +1\.500 +8x8 +n *{note}", table)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "which model? (expected --model NAME). All names: python export.py --list"),
        (
            ["--model", "mobilenet_v3_larg"],
            "there is no model named 'mobilenet_v3_larg'. Did you mean mobilenet_v3_large",
        ),
        (["--model", "zzz"], "there is no model named 'zzz'. All names: python export.py --list"),
        ([*SMALL, "--batch", "0"], "cannot read the batch size (got 0; expected dynamic, or a number of 1 or more)"),
        ([*SMALL, "--batch", "many"], "cannot read the batch size (got many;"),
        ([*SMALL, "--batch", "-1"], "cannot read the batch size (got -1;"),
        ([*SMALL, "--option", "width_mult"], "cannot read a model option (got width_mult; expected KEY=VALUE"),
        (
            [*SMALL, "--option", "depth=2"],
            "mobilenet_v3_small has no option 'depth' (expected width_mult (default 1.0)",
        ),
        (
            [*SMALL, "--option", "width_mult=wide"],
            "option 'width_mult' is of another type (got 'wide'; expected float)",
        ),
        ([*SMALL, "--option", "width_mult=nan"], "option 'width_mult' is of another type (got 'nan'; expected float)"),
        ([*SMALL, "--option", "width_mult=0"], "MobileNetV3 cannot be built so (got width_mult=0"),
        (
            [*SMALL, "--image-size", "0"],
            "--image-size/--input-size: got 0, expected pixels: 640, or height",
        ),
        ([*SMALL, "--image-size", "big"], "--image-size/--input-size: got big, expected pixels: 640"),
        ([*SMALL, "--num-classes", "0"], "a classifier needs classes (got 0; expected num_classes of 1 or more)"),
        ([*SMALL, "--labels", "nope.txt"], "cannot read the labels in nope.txt (got no such file or directory)"),
        ([*SMALL, "-o", "missing/net.onnx"], "cannot write missing/net.onnx (got no such file or directory)"),
        ([*SMALL, "-o", "file/net.onnx"], "cannot write file/net.onnx (got not a directory)"),
        ([*SMALL, "-o", "/proc/net.onnx"], "cannot write /proc/net.onnx (got no such file or directory)"),
        ([*SMALL, "-o", "/dev/null"], "cannot write /dev/null (got it is not a regular file)"),
    ],
)
def test_what_is_refused(cli: Cli, empty: Path, argv: list[str], error: str):
    Path("file").write_text("not a folder")
    assert error in cli.refused(2, "export", *argv)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "cannot use the labels in names.txt (got an empty file; expected one label a line)"),
        (b"one\n\nthree\n", "cannot use the labels in names.txt (got line 2 is empty; expected one label a line)"),
        (b"\xff\xfe\xfa", "cannot read the labels in names.txt (got 'utf-8' codec"),
        (b"cat\ndog\n", "the labels are not this network's (got 2 labels; expected 10 classes)"),
    ],
)
def test_bad_labels(cli: Cli, empty: Path, content: bytes, error: str):
    Path("names.txt").write_bytes(content)
    assert error in cli.refused(2, "export", *SMALL, "--labels", "names.txt")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "there is no such weights file (got weights.pth; expected auto, pretrained"),
        (b"", "weights.pth is empty"),
        (b"no checkpoint", "weights.pth is cut short or no checkpoint (expected a file of torch.save)"),
    ],
)
def test_files_that_are_no_checkpoint(cli: Cli, empty: Path, content: bytes | None, error: str):
    if content is not None:
        Path("weights.pth").write_bytes(content)
    assert error in cli.refused(2, "export", *SMALL, "--weights", "weights.pth")


def test_a_truncated_checkpoint(cli: Cli, empty: Path):
    torch.save(small_model().state_dict(), "weights.pth")
    data = Path("weights.pth").read_bytes()
    Path("weights.pth").write_bytes(data[: len(data) // 2])
    assert "weights.pth is cut short or no checkpoint" in cli.refused(2, "export", *SMALL, "--weights", "weights.pth")


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (small_model(num_classes=7), "They were trained for 7 classes: --num-classes 7"),
        (create_model("mobilenet_v3_large"), "They are mobilenet_v3_large's: --model mobilenet_v3_large"),
        (torch.nn.Linear(3, 3), "weights.pth do not fit mobilenet_v3_small"),
    ],
)
def test_weights_of_another_network(cli: Cli, empty: Path, model: torch.nn.Module, error: str):
    torch.save(model.state_dict(), "weights.pth")
    assert error in cli.refused(2, "export", *SMALL, "--weights", "weights.pth")


def test_weights_that_are_not_numbers(cli: Cli, empty: Path):
    model = small_model()
    with torch.no_grad():
        next(model.parameters())[0] = np.nan
    torch.save(model.state_dict(), "weights.pth")
    error = cli.refused(2, "export", *SMALL, "--weights", "weights.pth")
    assert "the weights in weights.pth hold NaN or infinity (got 1 tensors, the first features.0.0.weight)" in error


def test_official_weights_out_of_reach(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(empty / "hub"))
    monkeypatch.setattr(
        "models.download.urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("cut"))
    )
    error = cli.refused(3, "export", "--model", "mobilenet_v3_small", "--weights", "pretrained")
    assert "mobilenet_v3_small-047dcff4.pth cannot be reached (got cut)" in error
    assert "or give --weights FILE or --weights random" in error


def test_auto_falls_back_loudly(cli: Cli, empty: Path):
    """These options have no official weights: auto says why it takes random ones, and the file says it too."""
    argv = [argument for argument in SMALL if argument != "random"]
    argv.remove("--weights")
    result = cli.done("export", *argv, "-o", "net.onnx")
    assert "warning: the official weights of mobilenet_v3_small are for 1000 classes" in result.err
    assert "warning: the weights are RANDOM" in result.err


def test_a_graph_that_differs_is_not_written(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.workflows.export.DEFAULT_LIMITS", {"fp32": Limits(relative=1e-12)})
    result = cli("export", *SMALL)
    assert (result.code, result.out, snapshot(empty)) == (CheckFailed.exit_code, "", {})
    assert result.error.startswith("the exported graph differs from PyTorch; nothing was written (got logits: ")
