"""NVIDIA's own parser and builder, which need no GPU: what they take, what they refuse and in which words."""

import os
import signal
import time

import pytest
from tensorrt_api.graphs import network, unsupported
from tensorrt_api.simulator import INVALIDITY

from deploy.engine.build import build_engine
from deploy.engine.flavours import load_flavour
from deploy.engine.options import BuildOptions
from deploy.engine.plan import plan_kind
from deploy.engine.validity import invalidity
from deploy.errors import InputError
from deploy.specs import ShapeProfile

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
BATCH = ShapeProfile(1, 4, 8)


@pytest.fixture(scope="module")
def rtx():
    return load_flavour("tensorrt_rtx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_compiles(rtx, precision, tmp_path):
    built = build_engine(network(precision), flavour=rtx, batch=BATCH)
    plan = tmp_path / "net.rtx.plan"
    plan.write_bytes(built.plan)
    kind = plan_kind(plan)
    assert (kind.flavour, kind.version) == (rtx.name, rtx.version)
    # TensorRT-RTX 1.7 keeps the scales of an INT8 convolution in FP32; of nothing else does it warn.
    assert all("scales to fp32" in warning for warning in built.warnings)
    assert bool(built.warnings) == (precision == "int8")
    assert built.seconds > 0


def test_precision_is_that_of_the_graph(rtx):
    log = []
    build_engine(network("fp16"), flavour=rtx, batch=BATCH, log=log)
    said = next(line.text for line in log if line.text.startswith("/conv [Conv] outputs"))
    assert "[HALF]" in said


def test_options_and_target_are_taken(rtx):
    options = BuildOptions(workspace_gib=1, optimization_level=1, compute_capability="8.9")
    built = build_engine(network(), flavour=rtx, batch=BATCH, options=options)
    assert built.options["optimization_level"] == 1
    assert built.info("net.onnx", network()).compute_capability == "8.9"


def test_unknown_target(rtx):
    with pytest.raises(InputError, match=r"got 9\.0; expected one of .*8\.6.*12\.0"):
        build_engine(network(), flavour=rtx, batch=BATCH, options=BuildOptions(compute_capability="9.0"))


def test_unsupported_operator_is_named(rtx):
    with pytest.raises(InputError) as caught:
        build_engine(unsupported(), flavour=rtx, batch=BATCH)
    assert len(caught.value.details) == 1
    assert caught.value.details[0].startswith("node 1 '/head/frob' (Frobnicate): Plugin not found")


def test_not_onnx(rtx):
    with pytest.raises(InputError, match="Failed to parse the ONNX model"):
        build_engine(b"not ONNX at all", flavour=rtx, batch=BATCH)


def test_progress_reaches_the_end(rtx):
    class Progress:
        open, steps = 0, 0

        def start(self, phase, parent, steps):
            self.open += 1

        def step(self, phase, step):
            self.steps += 1

        def finish(self, phase):
            self.open -= 1

    progress = Progress()
    build_engine(network(), flavour=rtx, batch=BATCH, progress=progress)
    assert progress.open == 0
    assert progress.steps > 10


def test_ctrl_c_stops_the_builder_then_raises(rtx):
    class Progress:
        pressed = False

        def start(self, phase, parent, steps):
            pass

        def step(self, phase, step):
            if not self.pressed:
                self.pressed = True
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # leaves the waiting thread the time to see the signal

        def finish(self, phase):
            pass

    log = []
    with pytest.raises(KeyboardInterrupt):
        build_engine(network(), flavour=rtx, batch=BATCH, progress=Progress(), log=log)
    assert any("BuildCanceled" in line.text for line in log)
    assert build_engine(network(), flavour=rtx, batch=BATCH).plan  # and the next build works


def test_what_it_says_of_headers(rtx, tmp_path):
    """Its own diagnostics are those of the simulator; a damaged header it recognises without a GPU too."""
    members = rtx.module.EngineInvalidityDiagnostics.__members__
    assert {name: int(value) for name, value in members.items()} == INVALIDITY
    path = tmp_path / "net.rtx.plan"
    path.write_bytes(b"no header of a plan" * 9)
    assert invalidity(path, rtx) == ([("the plan's header is damaged", True)], [])
