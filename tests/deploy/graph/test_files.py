from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from deploy.errors import InputError
from deploy.graph import files
from deploy.manifest import METADATA_KEY, Manifest
from deploy.specs import Precision

MANIFEST = Manifest("net", Precision.FP32, (), (), labels=("cat", "Hündin", "犬"))


@pytest.fixture
def saved(tmp_path, mini):
    path = tmp_path / "net.onnx"
    files.save(path, mini, MANIFEST)
    return path


def test_saved_files_are_valid_and_compute_the_same(saved, mini, images, run):
    onnx.checker.check_model(str(saved), full_check=True)
    expected = run(mini, images)["logits"]
    np.testing.assert_array_equal(run(files.load(saved), images)["logits"], expected)


def test_other_tools_find_the_manifest(saved):
    properties = {entry.key: entry.value for entry in onnx.load(saved).metadata_props}
    session = ort.InferenceSession(str(saved))
    assert properties[METADATA_KEY] == session.get_modelmeta().custom_metadata_map[METADATA_KEY] == MANIFEST.to_json()


def test_the_manifest_comes_back(saved, mini):
    assert files.read_manifest(files.load(saved), "net.onnx") == MANIFEST
    mini.metadata_props.clear()
    assert files.read_manifest(mini, "net.onnx") is None


def test_saving_returns_what_was_written_and_is_reproducible(tmp_path, saved, mini):
    data = files.save(tmp_path / "again.onnx", mini, MANIFEST)
    assert data == saved.read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert files.to_bytes(files.load(saved)) == data


def test_the_digest_is_of_the_graph_alone(tmp_path, mini):
    digest = files.graph_digest(mini)
    files.save(tmp_path / "net.onnx", mini, MANIFEST)
    assert files.graph_digest(mini) == digest == files.graph_digest(files.load(tmp_path / "net.onnx"))
    assert files.read_manifest(mini, "net.onnx") == MANIFEST


@pytest.mark.parametrize("change", ["weight", "attribute", "name"])
def test_the_digest_sees_every_change_of_the_graph(mini, change):
    digest = files.graph_digest(mini)
    if change == "weight":
        value = mini.graph.initializers["head.weight"]
        value.const_value = ir.Tensor(np.nextafter(value.const_value.numpy(), np.float32(9)), name="head.weight")
    elif change == "attribute":
        next(node for node in mini.graph if node.op_type == "Concat").attributes["axis"] = ir.AttrInt64("axis", 2)
    else:
        mini.graph[0].name = "renamed"
    assert files.graph_digest(mini) != digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"holds no graph \(got 0 bytes\)"),
        (b"garbage " * 100, "not an ONNX file, or it is truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file, or it is truncated"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "holds no graph"),
    ],
)
def test_what_is_no_graph(tmp_path, content, said):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"net.onnx.*{said}.*Export it again: python export.py"):
        files.load(path)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(saved, part):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="not an ONNX file, or it is truncated"):
        files.load(saved)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "net.onnx", tmp_path):
        with pytest.raises(InputError, match="no ONNX file at .* Export it again"):
            files.load(path)


def test_external_data(tmp_path, mini, images, run):
    """Large models of others keep their weights in a second file, without which there is nothing to load."""
    path = tmp_path / "net.onnx"
    onnx.save(ir.to_proto(mini), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").stat().st_size > 1000
    np.testing.assert_array_equal(run(files.load(path), images)["logits"], run(mini, images)["logits"])
    (tmp_path / "net.data").unlink()
    with pytest.raises(InputError, match=r"cannot read .*net.onnx \(got .*net.data"):
        files.load(path)


def test_a_failed_save_keeps_the_old_file(saved, mini, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(files, "to_bytes", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.save(saved, mini, MANIFEST.evolve(model="other"))
    assert saved.read_bytes() == before


@pytest.fixture
def low(monkeypatch):
    """No more than 2000 bytes of weights in a file."""
    monkeypatch.setattr(files, "LIMIT", 2000)


def test_a_model_beyond_the_limit_is_written_to_two_files(tmp_path, mini, images, run, low):
    content = files.write(tmp_path / "net.onnx", mini)
    assert content == (tmp_path / "net.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    loaded = files.load(tmp_path / "net.onnx")
    assert files.external_files(loaded) == {tmp_path / "net.onnx.data"}
    assert files.external_files(mini) == set()
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    want = run(mini, images)["logits"]
    np.testing.assert_array_equal(
        ort.InferenceSession(str(tmp_path / "net.onnx")).run(None, {"input": images})[0], want
    )
    files.write(tmp_path / "again.onnx", loaded)
    assert (tmp_path / "again.onnx.data").read_bytes() == (tmp_path / "net.onnx.data").read_bytes()


def test_a_model_within_the_limit_is_read_whole(tmp_path, mini, images, run, monkeypatch):
    monkeypatch.setattr(files, "LIMIT", 2000)
    files.write(tmp_path / "net.onnx", mini)
    monkeypatch.undo()
    loaded = files.load(tmp_path / "net.onnx")
    (tmp_path / "net.onnx.data").unlink()
    np.testing.assert_array_equal(run(loaded, images)["logits"], run(mini, images)["logits"])
    assert files.to_bytes(loaded) == files.to_bytes(mini)


def test_weights_left_outside_are_read_when_bytes_are_wanted(tmp_path, mini, low, monkeypatch):
    files.write(tmp_path / "net.onnx", mini)
    loaded = files.load(tmp_path / "net.onnx")
    monkeypatch.setattr(files, "LIMIT", 1 << 30)
    assert files.to_bytes(loaded) == files.to_bytes(mini)
    assert files.graph_digest(loaded) == files.graph_digest(mini)
    assert files.external_files(loaded)


@pytest.mark.parametrize("change", [None, "weight", "name"])
def test_the_digest_of_a_large_model(tmp_path, mini, low, change):
    digest = files.graph_digest(mini)
    files.write(tmp_path / "net.onnx", mini)
    loaded = files.load(tmp_path / "net.onnx")
    loaded.metadata_props["anything"] = "else"
    if change == "weight":
        value = loaded.graph.initializers["head.weight"]
        value.const_value = ir.Tensor(np.nextafter(value.const_value.numpy(), np.float32(9)), name="head.weight")
    elif change == "name":
        loaded.graph[0].name = "renamed"
    assert (files.graph_digest(loaded) == digest) == (change is None)
    assert loaded.graph.initializers["head.bias"].const_value is not None


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/etc/passwd", "weights outside its folder: /etc/passwd"),
        ("../secret", r"weights outside its folder: \.\./secret"),
    ],
)
def test_weights_of_another_folder_are_not_read(tmp_path, mini, low, location, said):
    files.write(tmp_path / "net.onnx", mini)
    proto = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for each in proto.graph.initializer:
        for entry in each.external_data:
            entry.value = location if entry.key == "location" else entry.value
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=said):
        files.load(tmp_path / "net.onnx")


def test_truncated_weights(tmp_path, mini, low):
    files.write(tmp_path / "net.onnx", mini)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"net.onnx.data ends at \d+ bytes; expected \d+ or more\). Copy it with"):
        files.load(tmp_path / "net.onnx")
