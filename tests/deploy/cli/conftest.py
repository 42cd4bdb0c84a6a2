"""A working folder with one exported network, and the verbs to run on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Cli, exported, write_images


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen images."""
    return write_images(tmp_path_factory.mktemp("images") / "photos", 12)


@pytest.fixture
def here(tmp_path: Path, base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``net.onnx`` and ``photos/``."""
    shutil.copy(exported(base), tmp_path / "net.onnx")
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
