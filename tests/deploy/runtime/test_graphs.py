from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import old_graph

from deploy.errors import MachineError
from deploy.graph import files
from deploy.runtime.graphs import run_graph

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_graph_beyond_the_limit_runs_from_a_folder_that_is_gone(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    model = ir.from_proto(old_graph(19))
    with run_graph(model) as runner:
        expected = runner.infer({"image": IMAGES})["scores"]
    monkeypatch.setattr(files, "LIMIT", 100)
    with run_graph(model) as runner:
        assert list(scratch.iterdir()) == []
        for _ in range(2):
            np.testing.assert_array_equal(runner.infer({"image": IMAGES})["scores"], expected)


def test_a_full_disk_is_said(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "LIMIT", 100)
    monkeypatch.setattr(files, "write", full)
    with pytest.raises(MachineError, match="no space left to write .*model.onnx"):
        run_graph(ir.from_proto(old_graph(19)))
    assert list(scratch.iterdir()) == []
