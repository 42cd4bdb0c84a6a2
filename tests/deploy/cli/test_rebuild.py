"""Engines that do not fit the machine, and ``--rebuild``, on simulated machines; numbers are ONNX Runtime's."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from commands import Cli, foreign, snapshot, write_images
from tensorrt_api.cuda import LIVE, SimulatedCuda
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.artifacts import sha256_file
from deploy.engine import preflight
from deploy.errors import MachineError
from deploy.workflows import rebuild

OLDER, NEWER = (next(api for api in APIS if api.version.startswith(v)) for v in ("10.3", "11.4"))
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")
L4 = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")
ORIN = hardware.GpuInfo("Orin", "8.7", 16 << 30, "540.4.0")
BUILD = ("build", "my net.onnx", "--precision", "fp16", "--batch", "2:4:8")
PLAN = "my net.fp16.plan"


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    assert LIVE == {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with a TensorRT and a GPU, or without one. Other flavours are not installed."""

    def have(api, gpu=L4, **told):
        flavour = simulate(api, **told)

        def load(name):
            if name != flavour.name:
                raise MachineError(f"{name} is not installed", fix="Install it.")
            return flavour

        gpus = [gpu] if gpu else []
        for module in ("engine.preflight", "runtime.trt", "workflows.inspection"):
            monkeypatch.setattr(f"deploy.{module}.load_flavour", load)
        for module in ("build", "rebuild"):
            monkeypatch.setattr(f"deploy.workflows.{module}.choose_flavour", lambda name: load(flavour.name))
        for module in ("hardware", "workflows.build", "workflows.inspection"):
            monkeypatch.setattr(f"deploy.{module}.devices", lambda: gpus)
        monkeypatch.setattr(preflight, "cuda_major", lambda name: None)
        monkeypatch.setattr("deploy.runtime.trt.open_cuda", SimulatedCuda)

    return have


@pytest.fixture
def moved(cli: Cli, machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine of TensorRT 10.3 on an Orin, now on a machine with TensorRT 11.4 and an L4."""
    monkeypatch.chdir(tmp_path)
    foreign(Path("my net.onnx"))
    write_images(Path("photos"), 3)
    machine(OLDER, ORIN)
    cli.done(*BUILD, "--workspace", "0.5", "--strip-weights")
    machine(NEWER)
    return Path(PLAN)


def engine_of(plan: Path):
    return json.loads(Path(f"{plan}.json").read_text())["engine"]


def test_the_error_gives_a_command_that_works(cli: Cli, moved: Path):
    error = cli.refused(3, "infer", "--engine", moved, "photos")
    assert error == (
        "my net.fp16.plan cannot run on this machine (got TensorRT 11.4.0.106 is installed; this GPU is NVIDIA L4 of "
        "compute capability 8.9; expected TensorRT 10.3.0.0 and a GPU of compute capability 8.7 (Orin), "
        "batch 2:4:8). Build it again where it is to run: add --rebuild, or python build_engine.py "
        "'my net.fp16.onnx' --precision fp16 --batch 2:4:8 -o 'my net.fp16.plan'."
    )
    _, *command = shlex.split(error.partition("or python")[2].removesuffix("."))
    cli.done("build", *command)
    cli.done("infer", "--engine", moved, "photos")


def test_rebuild_replaces_the_engine_and_goes_on(cli: Cli, moved: Path):
    before = engine_of(moved)
    done = cli.done("infer", "--engine", moved, "photos", "--rebuild")
    assert done.err.splitlines()[:4] == [
        "my net.fp16.plan does not fit this machine: TensorRT 11.4.0.106 is installed; this GPU is NVIDIA L4 of "
        "compute capability 8.9",
        "building it again from my net.fp16.onnx with TensorRT 11.4.0.106",
        "warning: builder: simulated",
        "replaced my net.fp16.plan and its manifest; the new engine was not compared with its graph: python -m deploy "
        "verify 'my net.fp16.onnx' 'my net.fp16.plan'",
    ]
    assert "executed on a simulated GPU (TensorRT 11.4.0.106)" in done.out
    after = engine_of(moved)
    same = ("onnx_file", "onnx_sha256", "batch", "options")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["options"]["workspace_gib"] == 0.5
    assert before["device_memory"] > moved.stat().st_size, "the build ran the engine"
    assert (after["version"], after["gpu"], after["compute_capability"]) == ("11.4.0.106", "NVIDIA L4", "8.9")
    parity = json.loads(Path(f"{moved}.json").read_text())["parity"]
    assert [figures["how"] for figures in parity] == ["simulated"], "the old engine's figures are not this one's"
    again = cli.done("verify", "my net.fp16.onnx", moved, "--rebuild")
    assert "building" not in again.err


@pytest.mark.parametrize("damage", ["truncated", "other", "gone"])
def test_a_damaged_engine_is_built_again(cli: Cli, moved: Path, damage: str):
    whole = moved.read_bytes()
    cli.done("infer", "--engine", moved, "photos", "--rebuild")
    if damage == "gone":
        moved.unlink()
    else:
        moved.write_bytes(whole if damage == "other" else moved.read_bytes()[:-1])
    assert cli("infer", "--engine", moved, "photos").code == 2
    done = cli.done("infer", "--engine", moved, "photos", "--rebuild")
    assert "building it again from my net.fp16.onnx" in done.err


def test_what_another_process_built_in_the_meantime_is_taken(cli: Cli, moved: Path, monkeypatch: pytest.MonkeyPatch):
    """It holds the lock while this one has found the plan unfit, and waits."""
    real, built = rebuild.locked, []

    @contextlib.contextmanager
    def waited(path: Path):
        monkeypatch.setattr(rebuild, "locked", real)
        cli.done("infer", "--engine", moved, "photos", "--rebuild")
        built.append(snapshot(Path()))
        with real(path):
            yield

    monkeypatch.setattr(rebuild, "locked", waited)
    done = cli.done("infer", "--engine", moved, "photos", "--rebuild")
    assert "building it again" not in done.err
    assert built == [snapshot(Path())], "the pair of the other process stays"


def int8_layers(graph: Path) -> list[str]:
    nodes = onnx.load(graph).graph.node
    made = {output: node.op_type for node in nodes for output in node.output}
    return [node.name for node in nodes if [made.get(name) for name in node.input].count("DequantizeLinear") >= 2]


def test_int8_layers_that_the_target_refuses(cli: Cli, net, machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their Q/DQ are dropped, as in a build; what is really built lies beside the plan, and the manifest says so."""
    monkeypatch.chdir(tmp_path)
    first = net.op("Relu", "first", net.conv("first_conv", "input", (3, 16), 3))
    second = net.op("Relu", "second", net.conv("second_conv", first, (16, 16), 3))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", second))
    net.op("Gemm", "logits", flat, net.weight("head", 20, 16), net.weight("bias", 20), transB=1)
    onnx.save(ir.to_proto(net.model("logits", ["batch", 20])), "net.onnx")
    write_images(Path("photos"), 6)
    machine(OLDER)
    cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "tensorrt")
    plan, given = Path("net.int8.plan"), Path("net.int8.onnx")
    before, layers = given.read_bytes(), int8_layers(given)
    assert "second_conv_node" in layers
    machine(NEWER, refuses=["second_conv_node"])
    done = cli.done("infer", "--engine", plan, "photos", "--rebuild")
    assert "warning: no INT8 kernel for second_conv_node: out of INT8, and the engine is built again" in done.err
    assert "python -m deploy verify net.rebuilt.int8.onnx net.int8.plan --data DIR" in done.err
    assert given.read_bytes() == before
    rebuilt, manifest = Path("net.rebuilt.int8.onnx"), json.loads(Path(f"{plan}.json").read_text())
    assert int8_layers(rebuilt) == [name for name in layers if name != "second_conv_node"]
    assert manifest["engine"]["onnx_file"] == str(rebuilt)
    assert manifest["engine"]["onnx_sha256"] == sha256_file(rebuilt)
    assert list(manifest["quantization"]["refused"]) == ["second_conv_node"]
    assert manifest["parity"] == []
    cli.done("verify", rebuilt, plan, "--data", "photos")
    machine(OLDER)
    done = cli.done("infer", "--engine", plan, "photos", "--rebuild")
    assert "building it again from net.rebuilt.int8.onnx with TensorRT 10.3" in done.err


def test_without_its_graph(cli: Cli, moved: Path):
    Path("my net.fp16.onnx").unlink()
    error = cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")
    assert error.startswith("the graph that my net.fp16.plan was built from is not there (got no file my net.fp16.onnx")
    assert error.endswith("Copy it beside the plan.")


def test_with_a_graph_that_was_changed(cli: Cli, moved: Path):
    with Path("my net.fp16.onnx").open("ab") as stream:
        stream.write(b"\n")
    error = cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")
    assert error.startswith("my net.fp16.onnx is not the graph that my net.fp16.plan was built from: it was changed")
    assert "python build_engine.py 'my net.fp16.onnx' --precision fp16 -o NEW.plan" in error


def test_without_its_manifest(cli: Cli, moved: Path):
    Path(f"{moved}.json").unlink()
    error = cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")
    assert "cannot be built again without its manifest (got no file my net.fp16.plan.json; TensorRT 11.4" in error


def test_nothing_is_built_where_no_engine_could_run(cli: Cli, moved: Path, machine):
    machine(NEWER, None)
    error = cli.refused(3, "infer", "--engine", moved, "photos", "--rebuild")
    assert "Run its graph here: python infer.py --engine 'my net.fp16.onnx' IMAGE." in error
    machine(RTX)
    error = cli.refused(3, "infer", "--engine", moved, "photos", "--rebuild")
    assert "got tensorrt is not installed (Install it.)" in error
    moved.write_bytes(b"damaged")
    machine(RTX, None)
    assert "is not a TensorRT plan" in cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")


def test_a_build_that_fails_leaves_the_old_engine(cli: Cli, moved: Path, monkeypatch):
    from tensorrt_api.simulator import Builder

    monkeypatch.setattr(Builder, "build_serialized_network", lambda self, *_: self._log("ERROR", "no kernel"))
    Path(f"{moved}.lock").touch()  # it stays
    before = snapshot(Path())
    error = cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")
    assert "cannot build this graph (got no kernel)" in error
    assert snapshot(Path()) == before


def test_damaged_options_are_refused(cli: Cli, moved: Path):
    Path(f"{moved}.lock").touch()  # it stays
    manifest = json.loads(Path(f"{moved}.json").read_text())
    manifest["engine"]["options"]["workspace_gib"] = "much"
    Path(f"{moved}.json").write_text(json.dumps(manifest))
    error = cli.refused(2, "infer", "--engine", moved, "photos", "--rebuild")
    assert error.startswith("the manifest's options are damaged")


def test_rtx_is_built_for_the_gpu_that_is_here(cli: Cli, machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    foreign(Path("my net.onnx"))
    machine(RTX, dataclasses.replace(L4, compute_capability="8.6"))
    cli.done(*BUILD, "--compute-capability", "8.6")
    machine(RTX)
    done = cli.done("verify", "my net.onnx", "my net.fp16.rtx.plan", "--rebuild")
    assert "this GPU is NVIDIA L4 of compute capability 8.9" in done.err
    assert engine_of(Path("my net.fp16.rtx.plan"))["compute_capability"] == "8.9"


def test_a_foreign_graph_is_simplified_as_it_was_built(cli: Cli, machine, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign(Path("my net.onnx"))
    machine(OLDER)
    cli.done("build", "my net.onnx", "--precision", "fp32")
    machine(NEWER)
    cli.done("verify", "my net.onnx", "my net.fp32.plan", "--rebuild")
    assert engine_of(Path("my net.fp32.plan"))["onnx_file"] == "my net.onnx"


def test_verify_and_eval_take_graphs_and_names_beside_engines(cli: Cli, moved: Path):
    done = cli.done("verify", "my net.onnx", "my net.fp16.onnx", moved, "--rebuild")
    assert done.err.count("building it again") == 1


def test_a_batch_size_outside_the_profile_is_explained(cli: Cli, moved: Path):
    done = cli.done("infer", "--engine", moved, "photos", "--rebuild", "--batch-size", "16")
    assert "the engine takes batches of 2 to 8: 16 run in pieces of at most 8" in done.err
    assert "the engine takes" not in cli.done("infer", "--engine", moved, "photos").err


def test_weights_come_from_a_file_as_it_is(cli: Cli, machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A graph that is simplified on the way has other weights than its file."""
    monkeypatch.chdir(tmp_path)
    foreign(Path("my net.onnx"))
    machine(NEWER)
    error = cli.refused(2, "build", "my net.onnx", "--precision", "fp32", "--strip-weights")
    assert error == (
        "weights come from a file, and my net.onnx is changed before it is built. Simplify it first: "
        "onnxsim 'my net.onnx' simple.onnx --target-opset 19. Then build from that."
    )
