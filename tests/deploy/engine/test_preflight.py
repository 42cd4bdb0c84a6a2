"""What is said of a plan that cannot run here."""

import dataclasses

import pytest
from tensorrt_api.simulator import plan_header
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.artifacts import sha256_bytes
from deploy.engine import preflight as module
from deploy.engine.flavours import Flavour, capabilities
from deploy.engine.preflight import plan_kind, preflight
from deploy.errors import InputError, MachineError
from deploy.manifest import EngineInfo, Manifest
from deploy.specs import Precision, ShapeProfile

TENSORRT = next(api for api in APIS if api.version == "10.13.0.35")
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")
L4 = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")


def plan_bytes(api):
    return plan_header(api, b"engine") + b"engine"


@pytest.fixture
def machine(monkeypatch):
    """Sets what this machine has: GPUs, and versions by flavour (None: not installed)."""

    def have(*gpus, tensorrt="10.13.0.35", tensorrt_rtx="1.7.1.116"):
        versions = {"tensorrt": tensorrt, "tensorrt_rtx": tensorrt_rtx}

        def load(name):
            if versions[name] is None:
                raise MachineError(f"{name} is not installed", fix="pip install it")
            return Flavour(name, None, versions[name], capabilities(name))

        monkeypatch.setattr(module, "load_flavour", load)
        monkeypatch.setattr(hardware, "devices", lambda: list(gpus))

    return have


@pytest.fixture
def plan(tmp_path):
    """Writes a plan and its manifest."""

    def write(api, name="net.fp16.plan", **engine):
        path = tmp_path / name
        path.write_bytes(plan_bytes(api))
        info = EngineInfo(
            api.flavour,
            api.version,
            ShapeProfile(1, 8, 32),
            "net.fp16.onnx",
            "0" * 64,
            sha256_bytes(plan_bytes(api)),
            **engine,
        )
        return path, Manifest("net", Precision.FP16, (), (), engine=info)

    return write


@pytest.mark.parametrize("api", APIS, ids=str)
def test_kind_of_every_version(api, tmp_path):
    path = tmp_path / "net.plan"
    path.write_bytes(plan_bytes(api))
    kind = plan_kind(path)
    assert kind.flavour == api.flavour
    assert str(kind).startswith(f"{capabilities(api.flavour).title} {api.version}")


@pytest.mark.parametrize("content", [b"", b"ftrt", b"\x08\x0a\x12\x07pytorch" * 9])
def test_not_a_plan(tmp_path, content):
    path = tmp_path / "net.int8.plan"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a TensorRT plan") as caught:
        plan_kind(path)
    assert caught.value.fix.endswith("net.onnx --precision int8.")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        plan_kind(tmp_path / "net.plan")


def test_truncated(tmp_path):
    path = tmp_path / "net.fp16.rtx.plan"
    path.write_bytes(plan_bytes(RTX)[:-1])
    with pytest.raises(InputError, match=r"is damaged \(got 33 bytes; expected 34 bytes"):
        plan_kind(path)


def test_runs_where_everything_fits(machine, plan):
    machine(L4)
    preflight(*plan(TENSORRT, compute_capability="8.9", gpu="NVIDIA L4"))
    preflight(*plan(RTX, "net.fp16.rtx.plan"))
    preflight(plan(TENSORRT)[0], None)


def test_without_a_gpu_the_graph_beside_it_is_the_next_step(machine, plan):
    machine()
    path, manifest = plan(RTX, "net.fp16.rtx.plan")
    graph = path.with_name("net.fp16.onnx")
    graph.touch()
    for described in (manifest, None):
        with pytest.raises(MachineError) as caught:
            preflight(path, described)
        assert caught.value.got == "no NVIDIA GPU"
        assert caught.value.fix.strip() == f"Run its graph here: python infer.py --engine {graph} IMAGE."
    assert "TensorRT-RTX 1.7.1.116 and an NVIDIA GPU" in caught.value.expected


def test_the_graph_may_lie_in_another_folder(machine, plan):
    machine()
    path, manifest = plan(RTX, "net.fp16.rtx.plan")
    graph = path.parent / "graphs" / "net.onnx"
    graph.parent.mkdir()
    graph.touch()
    manifest = manifest.evolve(engine=dataclasses.replace(manifest.engine, onnx_file="graphs/net.onnx"))
    with pytest.raises(MachineError, match=r"infer\.py --engine .*graphs/net.onnx IMAGE"):
        preflight(path, manifest)


def test_everything_that_is_missing_is_named_at_once(machine, plan):
    machine(tensorrt=None)
    with pytest.raises(MachineError) as caught:
        preflight(*plan(TENSORRT, compute_capability="8.7", gpu="Orin"))
    assert caught.value.got == "tensorrt is not installed (pip install it); no NVIDIA GPU"
    assert caught.value.expected == "TensorRT 10.13.0.35 and a GPU of compute capability 8.7 (Orin), batch 1:8:32"
    assert "build_engine.py" in caught.value.fix


def test_other_version_and_other_gpu(machine, plan):
    machine(L4, tensorrt="10.3.0")
    with pytest.raises(MachineError) as caught:
        preflight(*plan(TENSORRT, compute_capability="8.7"))
    assert caught.value.got == "TensorRT 10.3.0 is installed; this GPU is NVIDIA L4 of compute capability 8.9"
    assert caught.value.fix.endswith("net.onnx --precision fp16.")


def test_plan_that_its_manifest_does_not_describe(machine, plan):
    machine(L4)
    path, manifest = plan(TENSORRT)
    path.write_bytes(plan_bytes(TENSORRT)[:-1])
    with pytest.raises(InputError, match="is not the one that its manifest describes"):
        preflight(path, manifest)
