"""Both layouts of a folder, and what in it counts as a change."""

from __future__ import annotations

import os

import pytest

from deploy.errors import InputError
from deploy.serving.folder import check_given, find, stamp


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")


def test_a_flat_file_is_version_1_and_numbered_folders_are_versions(tmp_path):
    touch(tmp_path / "flat.int8.onnx", tmp_path / "engine.plan", tmp_path / "engine.plan.json", tmp_path / "notes.txt")
    deep = tmp_path / "deep"
    touch(deep / "1" / "model.onnx", deep / "12" / "model.plan", deep / "03" / "model.onnx", deep / "x" / "model.onnx")
    touch(tmp_path / "samples" / "1.png", tmp_path / "none" / "1" / "other.onnx")
    found = find([tmp_path])
    assert {name: files.versions for name, files in found.items()} == {
        "flat.int8": {1: tmp_path / "flat.int8.onnx"},
        "engine": {1: tmp_path / "engine.plan"},
        "deep": {1: deep / "1" / "model.onnx", 12: deep / "12" / "model.plan"},
    }
    assert found["deep"].settings == tmp_path / "deep.toml"
    assert found["flat.int8"].settings == tmp_path / "flat.int8.toml"


def test_what_is_not_read_is_said(tmp_path):
    touch(tmp_path / "net" / "1" / "model.onnx", tmp_path / "net" / "config.pbtxt", tmp_path / "other.toml")
    config, settings = tmp_path / "net" / "config.pbtxt", tmp_path / "net.toml"
    assert check_given([tmp_path], find([tmp_path])) == [
        f"{config} is not read; settings are in {settings}",
        f"{tmp_path / 'other.toml'} is of no model",
    ]


def test_two_of_a_name_a_missing_file_and_nothing_are_refused(tmp_path):
    touch(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="no such file"):
        find([tmp_path / "nothing.onnx"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no model"):
        check_given([tmp_path / "empty"], find([tmp_path / "empty"]))
    touch(tmp_path / "net.plan")
    with pytest.raises(InputError, match="two models are named 'net'"):
        find([tmp_path])
    (tmp_path / "net.plan").unlink()
    touch(tmp_path / "deep" / "1" / "model.onnx", tmp_path / "deep" / "1" / "model.plan")
    with pytest.raises(InputError, match="1 holds two models"):
        find([tmp_path])


def test_a_model_changes_with_its_file_and_what_lies_beside_it(tmp_path):
    file = tmp_path / "net.onnx"
    touch(file, tmp_path / "other.onnx")
    seen = [stamp(file)]
    touch(tmp_path / "net.onnx.data")
    seen.append(stamp(file))
    file.write_text("22")
    seen.append(stamp(file))
    status = file.stat()
    touch(tmp_path / "new")
    (tmp_path / "new").write_text("33")
    (tmp_path / "new").replace(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps times
    seen.append(stamp(file))
    assert len(set(seen)) == len(seen)
    touch(tmp_path / "other.onnx", tmp_path / "third.onnx")
    assert stamp(file) == seen[-1]
