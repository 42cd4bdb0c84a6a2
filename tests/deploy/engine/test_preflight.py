"""What is said of a plan that cannot run here."""

import dataclasses
import shlex

import pytest
from tensorrt_api.simulator import plan_header, simulate
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.artifacts import sha256_bytes
from deploy.engine import preflight as module
from deploy.engine.flavours import capabilities
from deploy.engine.plan import plan_kind
from deploy.engine.preflight import batch_remark, preflight
from deploy.errors import InputError, MachineError
from deploy.manifest import EngineInfo, Manifest
from deploy.specs import Precision, ShapeProfile

TENSORRT = next(api for api in APIS if api.version == "10.13.0.35")
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")
L4 = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")


def plan_bytes(api):
    return plan_header(api, b"engine") + b"engine"


APIS_BY_FLAVOUR = {"tensorrt": TENSORRT, "tensorrt_rtx": RTX}


@pytest.fixture
def machine(monkeypatch):
    """Sets what this machine has: GPUs, and versions by flavour (None: not installed)."""

    def have(*gpus, tensorrt="10.13.0.35", tensorrt_rtx="1.7.1.116", cuda=(13, 0), package=13, free=None, invalid=()):
        versions = {"tensorrt": tensorrt, "tensorrt_rtx": tensorrt_rtx}

        def load(name):
            if versions[name] is None:
                raise MachineError(f"{name} is not installed", fix="pip install it")
            return dataclasses.replace(simulate(APIS_BY_FLAVOUR[name], invalid=invalid), version=versions[name])

        monkeypatch.setattr(module, "load_flavour", load)
        monkeypatch.setattr(module, "cuda_major", lambda name: package)
        monkeypatch.setattr(hardware, "devices", lambda: list(gpus))
        monkeypatch.setattr(hardware, "driver_cuda", lambda: cuda)
        monkeypatch.setattr(hardware, "free_memory", lambda: free)

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


def test_version_compatible_plans_run_in_newer_releases_only(machine, plan):
    described = plan(TENSORRT, compute_capability="8.9", options={"compatible": ["version"]})
    for newer in ("10.13.0.35", "10.16.1.11", "11.4.0.106"):
        machine(L4, tensorrt=newer)
        preflight(*described)
    machine(L4, tensorrt="10.7.0")
    with pytest.raises(MachineError) as caught:
        preflight(*described)
    assert caught.value.got == "TensorRT 10.7.0 is installed"
    assert caught.value.expected.startswith("TensorRT 10.13.0.35 or newer and a GPU")


def test_without_a_manifest_nothing_is_known_to_be_compatible(machine, plan):
    machine(L4, tensorrt="10.16.1.11")
    with pytest.raises(MachineError, match="TensorRT 10.16.1.11 is installed"):
        preflight(plan(TENSORRT)[0], None)


@pytest.mark.parametrize(("capability", "fits"), [("7.5", False), ("8.0", True), ("8.9", True), ("12.0", True)])
def test_ampere_plus(machine, plan, capability, fits):
    machine(dataclasses.replace(L4, compute_capability=capability))
    described = plan(TENSORRT, compute_capability="8.6", options={"compatible": ["ampere+"]})
    if fits:
        assert preflight(*described) == ()
        return
    with pytest.raises(MachineError, match="expected TensorRT 10.13.0.35 and a GPU of compute capability 8.0 or more"):
        preflight(*described)


def test_another_model_of_the_same_capability_is_remarked_on(machine, plan):
    machine(L4)
    built_on = {"compute_capability": "8.9", "gpu": "NVIDIA L40"}
    remark = "built on NVIDIA L40 without --compatible same-cc: it may be slower here, or fail"
    assert preflight(*plan(TENSORRT, **built_on)) == (remark,)
    assert preflight(*plan(TENSORRT, **built_on, options={"compatible": ["same-cc"]})) == ()
    assert preflight(*plan(RTX, "net.fp16.rtx.plan", gpu="NVIDIA L40")) == ()


@pytest.mark.parametrize("options", [{"compatible": None}, {"compatible": "version"}, {"compatible": [3, "moon"]}, {}])
def test_options_of_a_strange_manifest(machine, plan, options):
    machine(L4, tensorrt="10.16.1.11")
    with pytest.raises(MachineError, match="is installed"):
        preflight(*plan(TENSORRT, options=options))


def test_old_driver(machine, plan):
    machine(L4, cuda=(12, 8))
    with pytest.raises(MachineError) as caught:
        preflight(*plan(RTX, "net.fp16.rtx.plan"))
    needed = "the driver supports CUDA 12.8, and the TensorRT-RTX that is installed needs CUDA 13"
    assert caught.value.got == needed


@pytest.mark.parametrize(("cuda", "package"), [((12, 8), None), (None, 13), ((12, 2), 12), ((13, 1), 12)])
def test_driver_that_does_or_is_not_known(machine, plan, cuda, package):
    machine(L4, cuda=cuda, package=package)
    preflight(*plan(RTX, "net.fp16.rtx.plan"))


def test_memory(machine, plan):
    described = plan(TENSORRT, device_memory=3 << 30)
    machine(L4, free=2 << 30)
    with pytest.raises(MachineError) as caught:
        preflight(*described)
    assert caught.value.got == "2.0 GiB of the 24.0 GiB of NVIDIA L4 are free, and the engine takes 3.0 GiB"
    assert caught.value.expected == "TensorRT 10.13.0.35 and an NVIDIA GPU, batch 1:8:32"
    for free in (3 << 30, None):
        machine(L4, free=free)
        preflight(*described)
    machine(L4, free=1)
    preflight(*plan(TENSORRT))


def test_what_rtx_says_of_the_header(machine, plan):
    machine(L4, invalid=("UNSUPPORTED_CC", "INSUFFICIENT_GPU_MEMORY"))
    with pytest.raises(MachineError) as caught:
        preflight(*plan(RTX, "net.fp16.rtx.plan"))
    assert caught.value.got == (
        "the plan is not for the compute capability of this GPU; this GPU has too little memory for the plan"
    )
    machine(L4, invalid=("SUBOPTIMAL",))
    (remark,) = preflight(*plan(RTX, "net.fp16.rtx.plan"))
    assert remark == "TensorRT-RTX says that the plan may be slower on this GPU than one built for it"


def test_commands_with_spaces_can_be_pasted(machine, plan, tmp_path):
    machine(L4, tensorrt="10.3.0")
    path, manifest = plan(TENSORRT, "my net.fp16.plan")
    manifest = manifest.evolve(engine=dataclasses.replace(manifest.engine, onnx_file="my net.fp16.onnx"))
    graph = tmp_path / "my net.fp16.onnx"
    graph.touch()
    with pytest.raises(MachineError) as caught:
        preflight(path, manifest)
    _, _, command = caught.value.fix.removesuffix(".").partition("or python ")
    words = ["build_engine.py", str(graph), "--precision", "fp16", "--batch", "1:8:32", "-o", str(path)]
    assert shlex.split(command) == words
    machine()
    with pytest.raises(MachineError) as caught:
        preflight(path, manifest)
    assert shlex.split(caught.value.fix)[7] == str(graph)


def test_batches_outside_the_profile():
    profile = ShapeProfile(4, 8, 16)
    assert [batch_remark(profile, size) for size in (4, 16)] == [None, None]
    assert batch_remark(profile, 64) == "the engine takes batches of 4 to 16: 64 run in pieces of at most 16"
    assert batch_remark(ShapeProfile(4, 4, 4), 8) == "the engine takes batches of 4: 8 run in pieces of at most 4"
    few = "the engine takes batches of 4 to 16: 3 are filled up to 4 with copies of the last, whose results are dropped"
    assert batch_remark(profile, 3) == few
