"""Build logic on simulated modules of every supported version: the same code path must do for all."""

import pytest
from onnx import helper
from tensorrt_api.graphs import network, serialise, unsupported
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.engine.log import LogLine, write_log
from deploy.engine.options import BuildOptions
from deploy.errors import DeployError, InputError, MachineError
from deploy.specs import ShapeProfile

BATCH = ShapeProfile(1, 4, 8)
TENSORRT = next(api for api in APIS if api.flavour == "tensorrt")
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")


@pytest.mark.parametrize("api", APIS, ids=str)
def test_builds_with_the_names_of_every_version(api):
    options = BuildOptions(workspace_gib=0.5, optimization_level=2, aux_streams=1)
    built = build_engine(network(), flavour=simulate(api), batch=BATCH, options=options)
    assert built.plan.startswith(b"vtrt" if api.flavour == "tensorrt_rtx" else b"ftrt")
    assert (built.flavour, built.version, built.batch) == (api.flavour, api.version, BATCH)
    assert built.warnings == ("simulated",)
    assert built.options == {
        "strongly_typed": True,
        "tf32": False,
        "optimization_level": 2,
        "workspace_gib": 0.5,
        "tactic_memory_gib": None,
        "aux_streams": 1,
        "compute_capability": None,
        "compatible": None,
        "strip_weights": False,
    }


def test_fixed_batch_inside_the_profile_is_what_the_plan_takes():
    built = build_engine(network(batch=4), flavour=simulate(TENSORRT), batch=BATCH)
    assert built.batch == ShapeProfile(4, 4, 4)


def test_fixed_batch_outside_the_profile():
    with pytest.raises(InputError, match=r"got batch 16, profile 1:4:8\). Build with --batch 16"):
        build_engine(network(batch=16), flavour=simulate(TENSORRT), batch=BATCH)


def test_other_dynamic_axes_are_refused():
    relu = helper.make_node("Relu", ["input"], ["logits"])
    graph = serialise([relu], {}, ["batch", "width"], ["batch", "width"])
    with pytest.raises(InputError, match="input 'input' has a dynamic axis other than the batch"):
        build_engine(graph, flavour=simulate(TENSORRT), batch=BATCH)


def test_parser_errors_name_node_and_operator():
    with pytest.raises(InputError) as caught:
        build_engine(unsupported(), flavour=simulate(TENSORRT), batch=BATCH)
    assert caught.value.details == ("node 1 '/head/frob' (Frobnicate): Plugin not found",)


def test_failure_carries_the_builders_words():
    class Fails:
        def build_serialized_network(self, network, config):
            self._log("ERROR", "Could not find any implementation for node /conv")

    with pytest.raises(InputError) as caught:
        build_engine(network(), flavour=broken(Fails), batch=BATCH)
    assert caught.value.details == ("Could not find any implementation for node /conv",)
    assert "cannot build this graph (got Could not find any implementation" in str(caught.value)


def test_out_of_memory_is_the_machines_fault():
    class Fails:
        def build_serialized_network(self, network, config):
            self._log("ERROR", "[virtualMemoryBuffer.cpp] Cuda Runtime (out of memory)")

    with pytest.raises(MachineError, match="smaller --batch"):
        build_engine(network(), flavour=broken(Fails), batch=BATCH)


def test_no_builder():
    flavour = simulate(TENSORRT)

    def factory(logger):
        logger.log(flavour.module.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    flavour.module.Builder = factory
    with pytest.raises(MachineError, match=r"cannot start its builder.*CUDA initialization failure"):
        build_engine(network(), flavour=flavour, batch=BATCH)


def test_progress_is_told_of_every_phase_and_step():
    calls = []

    class Progress:
        def start(self, phase, parent, steps):
            calls.append((phase, parent, steps))

        def step(self, phase, step):
            calls.append((phase, step))

        def finish(self, phase):
            calls.append(phase)

    build_engine(network(), flavour=simulate(TENSORRT), batch=BATCH, progress=Progress())
    name = "Building engine"
    assert calls == [(name, None, 3), (name, 0), (name, 1), (name, 2), name]


def test_progress_that_raises_cancels_the_build_and_its_error_comes_out():
    class Progress:
        def start(self, phase, parent, steps):
            raise ZeroDivisionError("drawing failed")

    log = []
    with pytest.raises(ZeroDivisionError, match="drawing failed"):
        build_engine(network(), flavour=simulate(TENSORRT), batch=BATCH, progress=Progress(), log=log)
    assert LogLine("ERROR", "BuildCanceled") in log


def test_log_is_kept_when_the_build_fails(tmp_path):
    log = []
    with pytest.raises(DeployError):
        build_engine(unsupported(), flavour=simulate(TENSORRT), batch=BATCH, log=log)
    build_engine(network(), flavour=simulate(TENSORRT), batch=BATCH, log=log)
    write_log(tmp_path / "build.log", log)
    assert (tmp_path / "build.log").read_text() == "[WARNING] simulated\n"


def test_tactic_memory_is_for_builders_that_time_kernels(monkeypatch):
    options, pools = BuildOptions(tactic_memory_gib=2), []
    flavour = simulate(TENSORRT)
    monkeypatch.setattr(flavour.module.IBuilderConfig, "set_memory_pool_limit", lambda self, *pool: pools.append(pool))
    built = build_engine(network(), flavour=flavour, batch=BATCH, options=options)
    assert pools == [(flavour.module.MemoryPoolType.TACTIC_DRAM, 2 << 30)]
    assert built.options["tactic_memory_gib"] == 2
    with pytest.raises(InputError, match=r"TensorRT-RTX has no tactic memory \(got 2 GiB\). Leave --tactic-memory out"):
        build_engine(network(), flavour=simulate(RTX), batch=BATCH, options=options)


def test_tensorrt_cannot_target_another_gpu():
    options = BuildOptions(compute_capability="8.9")
    with pytest.raises(InputError, match="builds for the GPU of this machine only"):
        build_engine(network(), flavour=simulate(TENSORRT), batch=BATCH, options=options)


@pytest.mark.parametrize(
    "options",
    [{"optimization_level": 6}, {"workspace_gib": 0}, {"tactic_memory_gib": float("nan")}, {"aux_streams": -1}],
)
def test_options_out_of_range(options):
    with pytest.raises(InputError):
        build_engine(network(), flavour=simulate(TENSORRT), batch=BATCH, options=BuildOptions(**options))


def test_manifest_record():
    onnx = network()
    options = BuildOptions(compute_capability="8.6")
    info = build_engine(onnx, flavour=simulate(RTX), batch=BATCH, options=options).info("net.onnx", onnx)
    assert (info.flavour, info.onnx_file, info.compute_capability) == ("tensorrt_rtx", "net.onnx", "8.6")
    assert len(info.plan_sha256) == len(info.onnx_sha256) == 64


def broken(mixin):
    """A TensorRT whose builder has the methods of ``mixin``."""
    flavour = simulate(TENSORRT)
    real = flavour.module.Builder
    flavour.module.Builder = type("Builder", (mixin, real), {})
    return flavour
