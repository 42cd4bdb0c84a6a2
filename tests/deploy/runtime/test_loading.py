"""Plans that need more than to be read: trust in the code they carry, or weights from their graph."""

import gc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tensorrt_api.cuda import LIVE, SimulatedCuda
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.engine import preflight
from deploy.engine.build import build_engine
from deploy.engine.compatible import Compatible
from deploy.engine.options import BuildOptions
from deploy.errors import InputError, MachineError
from deploy.manifest import Manifest, write_plan_manifest
from deploy.quantize.measured import Measured
from deploy.runtime import trt, trt_profile
from deploy.runtime.trt import TrtRunner, open_plan
from deploy.runtime.trt_inspector import plan_information
from deploy.specs import Precision, ShapeProfile

BATCH = ShapeProfile(1, 4, 8)
OLDER, NEWER = (next(api for api in APIS if api.version.startswith(v)) for v in ("10.3", "11.4"))
L4 = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")
IMAGES = {"input": np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert LIVE == {}


@pytest.fixture
def machine(monkeypatch):
    """A machine with an L4, simulated CUDA and the TensorRT of a table."""

    def have(api):
        flavour = simulate(api)
        for module in (preflight, trt):
            monkeypatch.setattr(module, "load_flavour", lambda name: flavour)
        monkeypatch.setattr(preflight, "cuda_major", lambda name: None)
        monkeypatch.setattr(trt, "open_cuda", SimulatedCuda)
        monkeypatch.setattr(hardware, "devices", lambda: [L4])
        monkeypatch.setattr(hardware, "driver_cuda", lambda: (13, 0))
        return flavour

    return have


@pytest.fixture
def filed(tmp_path, machine):
    """Builds a plan on ``api``, with its manifest and its graph in one folder."""

    def build(api, **options):
        flavour, onnx_file, plan = machine(api), tmp_path / "my net.onnx", tmp_path / "my net.plan"
        onnx_file.write_bytes(network())
        built = build_engine(network(), flavour=flavour, batch=BATCH, options=BuildOptions(**options))
        plan.write_bytes(built.plan)
        info = built.info(onnx_file.name, network())
        write_plan_manifest(plan, Manifest("net", Precision.FP32, (), (), engine=info))
        return plan

    return build


def test_version_compatible_plans_run_in_a_newer_release(filed, machine):
    plan = filed(OLDER, compatible=(Compatible.VERSION,))
    machine(NEWER)
    with open_plan(plan) as runner:
        newer = runner.infer(IMAGES)["logits"]
    with TrtRunner(filed(NEWER).read_bytes(), simulate(NEWER), SimulatedCuda()) as runner:
        np.testing.assert_array_equal(newer, runner.infer(IMAGES)["logits"])


def test_code_in_a_plan_is_run_only_where_its_manifest_says_so(filed):
    plan = filed(NEWER, compatible=(Compatible.VERSION,))
    Path(f"{plan}.json").unlink()
    with pytest.raises(MachineError, match="contains host code"):
        open_plan(plan)


@pytest.mark.parametrize("api", APIS, ids=str)
def test_stripped_plans_take_their_weights_from_their_graph(filed, api):
    plan = filed(api, strip_weights=True)
    with open_plan(plan) as runner:
        got = runner.infer(IMAGES)["logits"]
        assert runner.device_memory() > len(network())
    with open_plan(filed(api)) as runner:
        np.testing.assert_array_equal(got, runner.infer(IMAGES)["logits"])


def test_a_changed_or_missing_graph_is_no_source_of_weights(filed):
    plan = filed(NEWER, strip_weights=True)
    graph = plan.with_name("my net.onnx")
    graph.write_bytes(network() + b"\n")
    with pytest.raises(InputError, match="my net.onnx is not the graph that .* was built from: it was changed"):
        open_plan(plan)
    graph.unlink()
    with pytest.raises(InputError, match="the graph that .*my net.plan was built from is not there"):
        open_plan(plan)


def test_missing_weights_are_listed(machine):
    flavour = machine(NEWER)
    built = build_engine(network(), flavour=flavour, batch=BATCH, options=BuildOptions(strip_weights=True))
    other = onnx.load_from_string(network())
    del other.graph.initializer[0]
    loading = built.loading(other.SerializeToString(), Path("net.onnx"))
    with pytest.raises(InputError) as caught:
        TrtRunner(built.plan, flavour, SimulatedCuda(), loading=loading)
    assert caught.value.got == "no weights for conv.weight"
    assert caught.value.details == ("missing: conv.weight",)


def test_weights_of_another_size_are_named(machine):
    flavour = machine(NEWER)
    built = build_engine(network(), flavour=flavour, batch=BATCH, options=BuildOptions(strip_weights=True))
    other = onnx.load_from_string(network())
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "conv.weight"))
    loading = built.loading(other.SerializeToString(), None)
    with pytest.raises(InputError, match="the graph does not give them") as caught:
        TrtRunner(built.plan, flavour, SimulatedCuda(), loading=loading)
    assert "Failed to refit conv.weight: its size or type differs" in caught.value.details


@pytest.mark.parametrize("options", [BuildOptions(strip_weights=True), BuildOptions(compatible=(Compatible.VERSION,))])
def test_the_inspector_looks_into_both(machine, options):
    flavour = machine(NEWER)
    built = build_engine(network(), flavour=flavour, batch=BATCH, options=options)
    assert "/conv" in plan_information(built.plan, flavour, built.loading(network(), None))


@pytest.mark.parametrize("options", [BuildOptions(strip_weights=True), BuildOptions(compatible=(Compatible.VERSION,))])
def test_times_are_measured_with_weights(machine, monkeypatch, options):
    """Graphs are timed while one is chosen, before there is a file to take weights from."""
    monkeypatch.setattr(trt_profile, "WARM_UP", 0.01)
    monkeypatch.setattr(trt_profile, "RUNS", 2)
    measured = Measured(machine(NEWER), BATCH, "NVIDIA L4", options)
    assert measured(ir.from_proto(onnx.load_from_string(network()))) > 0


def test_another_model_of_gpu_is_told_with_the_results(filed, monkeypatch):
    plan = filed(NEWER)
    monkeypatch.setattr(hardware, "devices", lambda: [hardware.GpuInfo("NVIDIA L40", "8.9", 48 << 30, "580.65.06")])
    with open_plan(plan) as runner:
        assert runner.execution.endswith(
            "; built on NVIDIA L4 without --compatible same-cc: it may be slower here, or fail"
        )
