"""What a build asks of the full TensorRT, on a simulated one of every version; its engines are not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Cli, foreign
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

TENSORRT = [api for api in APIS if api.flavour == "tensorrt"]
BUILD = ("build", "net.onnx", "--precision", "fp16")


@pytest.fixture(params=TENSORRT, ids=str)
def tensorrt(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The simulated flavour that ``build`` finds, beside ``net.onnx``."""
    monkeypatch.chdir(tmp_path)
    foreign(Path("net.onnx"))
    flavour = simulate(request.param)
    monkeypatch.setattr("deploy.workflows.build.choose_flavour", lambda backend: flavour)
    return flavour


def test_what_the_builder_was_told_is_in_the_manifest(cli: Cli, tensorrt):
    flags = ("--workspace", "0.5", "--tactic-memory", "2", "--optimization-level", "4", "--aux-streams", "0")
    done = cli.done(*BUILD, *flags, "--timing-cache", "timing.cache", "--json")
    options = {"workspace_gib": 0.5, "tactic_memory_gib": 2, "optimization_level": 4, "aux_streams": 0}
    assert done.document["manifest"]["engine"]["options"].items() >= options.items()
    header, times = json.loads(Path("timing.cache").read_bytes())
    assert header[0] == tensorrt.version
    assert len(times) > 5


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("net.onnx", "net.onnx is the graph to build from: it will not be overwritten. Give another file."),
        ("net.fp16.onnx", "two files of this build would be net.fp16.onnx. Give them different names."),
        ("net.fp16.plan", "two files of this build would be net.fp16.plan. Give them different names."),
        ("./net.fp16.plan.json", "two files of this build would be net.fp16.plan.json. Give them different names."),
    ],
)
def test_the_timing_cache_is_no_other_file(cli: Cli, tensorrt, path: str, error: str):
    assert cli.refused(2, *BUILD, "--timing-cache", path) == error
