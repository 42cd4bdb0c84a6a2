"""The command line as a user meets it: run, and checked for what must hold of every command."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deploy.cli.main import main
from deploy.images.synthetic import synthetic_images

REPOSITORY = Path(__file__).resolve().parents[1]

# A real model, small enough to export in seconds.
NETWORK = (
    *("--weights", "random", "--image-size", "64", "--num-classes", "10"),
    *("--option", "width_mult=0.5", "--option", "reduced_tail=true"),
)
SMALL = ("--model", "mobilenet_v3_small", *NETWORK)


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document; fails if stdout holds anything else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


class Cli:
    """Runs verbs in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, verb: str, *argv: object) -> Result:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", [f"{verb}.py"])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            code = main([str(argument) for argument in argv], verb)
        finally:
            signal.signal(signal.SIGTERM, handler)
        return Result(code, *self._capsys.readouterr())

    def done(self, verb: str, *argv: object) -> Result:
        """A run that must succeed."""
        result = self(verb, *argv)
        assert result.code == 0, result.err
        return result

    def refused(self, code: int, verb: str, *argv: object) -> str:
        """The error line of a run that must fail with ``code``: on stderr alone, and with --json also as a document.

        No traceback, and no file made, changed or removed.
        """
        before = snapshot(Path())
        plain, as_json = self(verb, *argv), self(verb, *argv, "--json")
        assert snapshot(Path()) == before
        for result in (plain, as_json):
            assert result.code == code, (result.code, result.err)
            assert "Traceback" not in result.err
            assert result.error == plain.error
        assert plain.out == ""
        document = as_json.document
        assert document["exit_code"] == code
        assert plain.error.startswith(" ".join(document["error"].split()))
        return plain.error


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below ``folder`` and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def environment(**changes: str) -> dict[str, str]:
    """For subprocesses: few threads, and no colours or widths taken over from whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "PYTHONPATH")}
    return {**kept, "OMP_NUM_THREADS": "2", **changes}


def script(name: str, *argv: object, cwd: Path, env: Mapping[str, str] | None = None) -> Result:
    """Run ``python NAME.py …`` as a user does."""
    command = [sys.executable, str(REPOSITORY / f"{name}.py"), *map(str, argv)]
    done = subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=120)
    return Result(done.returncode, done.stdout, done.stderr)


def exported(base: Path) -> Path:
    """``small.onnx``, exported once for all tests that share the folder ``base``."""
    path = base / "exported" / "small.onnx"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        assert main([*SMALL, "-o", str(path)], "export") == 0
    return path


def write_images(folder: Path, count: int, size: tuple[int, int] = (80, 72), seed: int = 0) -> Path:
    """``count`` PNG files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(synthetic_images(count, size, seed)):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return folder


def foreign(path: Path, shape: tuple[object, ...] = ("N", 3, 32, 32), classes: int = 5, hidden: bool = False) -> Path:
    """A classifier without a manifest: Conv, Relu, pool, MatMul; ``hidden`` adds the pooled features as an output."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.standard_normal((16, 3, 3, 3)).astype(np.float32) * 0.3, "kernel")
    head = numpy_helper.from_array(rng.standard_normal((16, classes)).astype(np.float32), "head")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["convolved"], ["activated"], name="relu"),
        helper.make_node("GlobalAveragePool", ["activated"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten"),
        helper.make_node("MatMul", ["features", "head"], ["scores"], name="classify"),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], classes])]
    if hidden:
        outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [shape[0], 16]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    save(path, helper.make_graph(nodes, "foreign", [image], outputs, [kernel, head]))
    return path


def save(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
