from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest

from deploy.artifacts import (
    ArtifactNames,
    check_writable,
    locked,
    plan_manifest_path,
    replacing,
    replacing_all,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_error,
)
from deploy.errors import InputError, MachineError
from deploy.specs import Precision


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_half(path, failure):
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == path.parent, "a move between file systems is not atomic"
        raise failure


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    return path


@contextlib.contextmanager
def small_files():
    """The kernel refuses to let a file grow beyond 4096 bytes; pytest's own output must not be written meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("net.onnx", "net"),
        ("net.fp16.onnx", "net"),
        ("net.int8.onnx", "net"),
        ("net.fp32.plan", "net"),
        ("net.int8.rtx.plan", "net"),
        ("net.int8.rtx.plan.json", "net"),
        ("net.v2.onnx", "net.v2"),
        ("net.v2.int8.plan", "net.v2"),
        ("net", "net"),
        (".onnx", ".onnx"),
    ],
)
def test_a_file_tells_its_family(name, stem):
    assert ArtifactNames.of(Path("out", name)) == ArtifactNames(Path("out"), stem)


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("stem", ["net", "mobilenet_v3_large", "net.v2"])
def test_names_lead_back(precision, stem):
    names = ArtifactNames(Path("out"), stem)
    plans = [names.plan(precision, rtx=rtx) for rtx in (False, True)]
    every = [names.onnx(precision), *plans, *map(plan_manifest_path, plans)]
    assert len(set(every)) == len(every)
    assert {ArtifactNames.of(path) for path in every} == {names}


def test_names_are_those_promised():
    names = ArtifactNames(Path("out"), "net")
    assert names.onnx(Precision.FP32) == Path("out/net.onnx")
    assert names.onnx(Precision.INT8) == Path("out/net.int8.onnx")
    assert names.calibration() == Path("out/net.int8.calib.json")
    assert names.plan(Precision.FP16, rtx=False) == Path("out/net.fp16.plan")
    assert names.plan(Precision.INT8, rtx=True) == Path("out/net.int8.rtx.plan")
    assert plan_manifest_path(Path("out/net.int8.plan")) == Path("out/net.int8.plan.json")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_hashes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_writing_replaces_and_leaves_nothing_else(old):
    write_bytes(old, b"new")
    assert contents(old.parent) == {"net.onnx": b"new"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_raised_half_way_comes_out_and_the_old_file_survives(old, failure):
    with pytest.raises(failure):
        write_half(old, failure)
    assert contents(old.parent) == {"net.onnx": b"old"}


def test_an_interrupted_first_write_leaves_an_empty_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "net.onnx", KeyboardInterrupt)
    assert contents(tmp_path) == {}


def test_readers_never_see_a_half_file(old):
    with replacing(old) as temporary:
        temporary.write_bytes(b"half")
        assert old.read_bytes() == b"old"
    assert old.read_bytes() == b"half"


def test_a_write_cut_short_by_the_system_keeps_the_old_file(old):
    refused = pytest.raises(InputError, match=r"cannot write .*net.onnx \(got file too large\). Choose a writable path")
    with refused, small_files():
        write_bytes(old, bytes(10_000))
    assert contents(old.parent) == {"net.onnx": b"old"}


def test_a_full_disk_is_the_machines_fault(old):
    full = pytest.raises(MachineError, match=r"no space left to write .*net.onnx. Free disk space")
    with full, replacing(old), Path("/dev/full").open("wb") as stream:
        stream.write(b"x")
    assert contents(old.parent) == {"net.onnx": b"old"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("write", [check_writable, lambda path: write_bytes(path, b"new")])
def test_no_space_for_even_the_temporary_file(old, monkeypatch, code, write):
    def full(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(MachineError, match="no space left"):
        write(old)
    assert contents(old.parent) == {"net.onnx": b"old"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("write", [check_writable, lambda path: write_bytes(path, b"new")])
def test_a_folder_that_must_not_be_written(old, monkeypatch, code, write):
    def refused(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InputError, match=rf"cannot write .*net.onnx \(got {os.strerror(code).lower()}\)"):
        write(old)


def test_a_failed_move_cleans_up(old, monkeypatch):
    def refused(*args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(InputError, match="operation not permitted"):
        write_bytes(old, b"new")
    assert contents(old.parent) == {"net.onnx": b"old"}


@pytest.mark.parametrize("write", [check_writable, lambda path: write_bytes(path, b"new")])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere/net.onnx", "no such file or directory"),
        ("file/net.onnx", "not a directory"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
    ],
)
def test_places_where_no_file_can_be(tmp_path, path, reason, write):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=rf"cannot write .*{path} \(got {reason}\). Choose a writable path."):
        write(tmp_path / path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder", "pipe"}
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_devices_are_not_replaced():
    """Root may move a file over /dev/null, and then nothing on the machine works any more."""
    for write in (check_writable, lambda path: write_bytes(path, b"new")):
        with pytest.raises(InputError, match="not a regular file"):
            write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_checking_leaves_nothing_behind(old):
    check_writable(old)
    check_writable(old.parent / "other.onnx")
    assert contents(old.parent) == {"net.onnx": b"old"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "net.onnx", b"new")
        assert stat.S_IMODE((tmp_path / "net.onnx").stat().st_mode) == mode
    finally:
        assert os.umask(before) == umask


def test_an_error_without_a_number_says_its_text():
    assert write_error(Path("net.onnx"), OSError("strange")).got == "strange"


def test_several_files_are_moved_together(tmp_path):
    one, two = tmp_path / "net.onnx.data", tmp_path / "net.onnx"
    for path in (one, two):
        path.write_bytes(b"old")
    with pytest.raises(InputError, match="cannot write"), replacing_all(one, two) as folder:
        (folder / one.name).write_bytes(b"half")
    assert [path.read_bytes() for path in (one, two)] == [b"old", b"old"]
    with replacing_all(one, two) as folder:
        (folder / one.name).write_bytes(b"new")
        (folder / two.name).write_bytes(b"new")
        assert one.read_bytes() == b"old"
    assert [path.read_bytes() for path in (one, two)] == [b"new", b"new"]
    assert sorted(tmp_path.iterdir()) == [two, one]


def test_of_several_files_one_that_is_missing_moves_none(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    with pytest.raises(InputError, match="cannot write"), replacing_all(one, two) as folder:
        (folder / "a").write_bytes(b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_taken(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*net\.plan\.lock .got no such file or directory"):
        locked(tmp_path / "missing" / "net.plan").__enter__()


def test_a_lock_lets_errors_of_its_body_through(old):
    with pytest.raises(FileNotFoundError, match="theirs"), locked(old):
        raise FileNotFoundError("theirs")
    assert contents(old.parent) == {"net.onnx": b"old", "net.onnx.lock": b""}
