"""Both networks at full size, exported once, and images to calibrate them."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Cli, write_images

from deploy.cli.main import main

MODELS = ("mobilenet_v3_small", "mobilenet_v3_large")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos", 12, size=(320, 280))


@pytest.fixture(scope="session", params=MODELS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<name>.onnx`` with 1000 classes at 224 pixels."""
    path = tmp_path_factory.mktemp("networks") / f"{request.param}.onnx"
    assert main(["--model", request.param, "--weights", "random", "-o", str(path)], "export") == 0
    return path
