"""Compatible and stripped plans on a real GPU: they compute what the plain plan of the same graph does."""

import dataclasses

import numpy as np
import pytest
from tensorrt_api.graphs import network

from deploy import hardware
from deploy.engine.build import build_engine
from deploy.engine.compatible import Compatible
from deploy.engine.flavours import FLAVOURS, load_flavour
from deploy.engine.options import BuildOptions, check_supported
from deploy.engine.preflight import examine
from deploy.errors import InputError, MachineError
from deploy.manifest import Manifest, read_plan_manifest, write_plan_manifest
from deploy.runtime.trt import open_plan
from deploy.specs import Precision, ShapeProfile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hardware.devices(), reason="no NVIDIA GPU"),
]
IMAGES = {"input": np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(params=list(FLAVOURS))
def flavour(request):
    try:
        return load_flavour(request.param)
    except MachineError as error:
        pytest.skip(error.headline)


@pytest.fixture
def filed(flavour, tmp_path):
    """Builds a plan, with its manifest and its graph in one folder; skips where the flavour has no such option."""

    def build(precision, name="net.plan", **options):
        onnx, plan = tmp_path / "net.onnx", tmp_path / name
        onnx.write_bytes(network(precision))
        made = BuildOptions(**options)
        try:
            check_supported(flavour, made)
        except InputError as error:
            pytest.skip(error.headline)
        built = build_engine(network(precision), flavour=flavour, batch=ShapeProfile(1, 4, 8), options=made)
        plan.write_bytes(built.plan)
        info = dataclasses.replace(built.info(onnx.name, network(precision)), device_memory=1)
        write_plan_manifest(plan, Manifest("net", Precision(precision), (), (), engine=info))
        return plan

    return build


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    "options",
    [{"strip_weights": True}, *({"compatible": (each,)} for each in Compatible)],
    ids=["stripped", *Compatible],
)
def test_computes_what_the_plain_plan_does(filed, precision, options):
    with open_plan(filed(precision)) as runner:
        plain = runner.infer(IMAGES)["logits"]
    with open_plan(filed(precision, "other.plan", **options)) as runner:
        other = runner.infer(IMAGES)["logits"]
    assert np.ptp(plain) > 1
    assert np.abs(other - plain).max() <= (1e-4 if precision == "fp32" else 1e-2) * np.abs(plain).max()


def test_what_this_machine_says_of_a_plan_for_it(filed):
    plan = filed("fp16")
    assert examine(plan, read_plan_manifest(plan)).misfits == ()
    cuda = hardware.driver_cuda()
    assert cuda is not None
    assert cuda >= (11, 0)
    free = hardware.free_memory()
    assert free is None or 0 < free <= hardware.devices()[0].memory
