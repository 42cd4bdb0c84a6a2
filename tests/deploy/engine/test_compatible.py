"""Plans for other releases and GPUs than those they are built with, on simulated modules of every version."""

import pytest
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy import hardware
from deploy.engine.build import build_engine
from deploy.engine.compatible import Compatible, compatible_of, runs_in, runs_on
from deploy.engine.flavours import load_flavour
from deploy.engine.loading import Loading
from deploy.engine.options import BuildOptions
from deploy.errors import InputError, MachineError
from deploy.specs import ShapeProfile

BATCH = ShapeProfile(1, 4, 8)
VERSION, AMPERE, SAME = Compatible.VERSION, Compatible.AMPERE_PLUS, Compatible.SAME_CC
TENSORRT = [api for api in APIS if api.flavour == "tensorrt"]
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")
L4 = hardware.GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65.06")


def build(api, *compatible, strip=False):
    options = BuildOptions(compatible=compatible, strip_weights=strip)
    return build_engine(network(), flavour=simulate(api), batch=BATCH, options=options)


def by_version(version):
    return next(api for api in TENSORRT if api.version.startswith(version))


@pytest.fixture
def configured(monkeypatch):
    """The simulated configurations of the builds that follow."""
    made = []

    def configure(config, flavour, wanted):
        real(config, flavour, wanted)
        made.append(config)

    from deploy.engine import options

    real = options.set_compatible
    monkeypatch.setattr(options, "set_compatible", configure)
    return made


@pytest.mark.parametrize("api", TENSORRT, ids=str)
def test_what_the_builder_is_told(api, configured):
    built = build(api, VERSION, AMPERE)
    assert built.options["compatible"] == ["version", "ampere+"]
    assert compatible_of(built.info("net.onnx", network()).options) == (VERSION, AMPERE)
    assert built.loading(b"", None) == Loading(host_code=True)
    (config,) = configured
    assert "VERSION_COMPATIBLE" in config._flags
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"


def test_nothing_is_told_unasked(configured):
    assert build(TENSORRT[0]).loading(b"", None) == Loading()
    (config,) = configured
    assert config._flags == set()
    assert config.hardware_compatibility_level is None


def test_a_level_that_a_version_lacks():
    assert build(by_version("10.13"), SAME).options["compatible"] == ["same-cc"]
    with pytest.raises(InputError) as caught:
        build(by_version("10.3"), SAME)
    assert str(caught.value) == (
        "TensorRT 10.3.0 has no --compatible same-cc (expected TensorRT 10.9 or newer). "
        "Leave it out, or build with --compatible ampere+."
    )


def test_one_level_at_a_time():
    with pytest.raises(InputError, match="one hardware compatibility level"):
        build(by_version("11.4"), AMPERE, SAME)


@pytest.mark.parametrize("wanted", Compatible)
def test_rtx_has_none(wanted):
    with pytest.raises(InputError, match=f"TensorRT-RTX has no --compatible plans .got {wanted.value[:4]}"):
        build(RTX, wanted)


def test_real_rtx_has_none():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    options = BuildOptions(compatible=(VERSION,))
    with pytest.raises(InputError, match="run on Ampere and newer GPUs as they are, and on no other release of it"):
        build_engine(network(), flavour=load_flavour("tensorrt_rtx"), batch=BATCH, options=options)


def test_releases():
    assert runs_in("10.3.0", "10.3.0.26", ())
    assert not runs_in("10.4.0", "10.3.0", (AMPERE,))
    assert [runs_in(here, "10.13.0.35", (VERSION,)) for here in ("10.13.0", "10.16.1", "11.0.0")] == [True] * 3
    assert not runs_in("10.7.0", "10.13.0.35", (VERSION,))


def test_gpus():
    assert runs_on("8.9", "8.9", ())
    assert runs_on("8.9", None, ())
    assert not runs_on("8.9", "8.6", (SAME, VERSION))
    assert [runs_on(here, "8.6", (AMPERE,)) for here in ("7.5", "8.0", "12.0")] == [False, True, True]


@pytest.mark.parametrize("api", APIS, ids=str)
def test_stripped_plans_are_small_and_take_a_gpu(api, monkeypatch):
    monkeypatch.setattr(hardware, "devices", lambda: [L4])
    whole, small = build(api), build(api, strip=True)
    assert len(small.plan) < len(whole.plan) / 2
    assert small.options["strip_weights"] is True
    assert small.loading(b"graph", None) == Loading(onnx=b"graph")
    monkeypatch.setattr(hardware, "devices", list)
    with pytest.raises(MachineError, match="strips weights only where there is a GPU"):
        build(api, strip=True)


@pytest.mark.parametrize("gpus", [[L4], []], ids=["GPU", "no GPU"])
@pytest.mark.parametrize("api", TENSORRT, ids=str)
def test_the_lean_runtime_cannot_refit(api, gpus, monkeypatch):
    monkeypatch.setattr(hardware, "devices", lambda: gpus)
    with pytest.raises(InputError) as caught:
        build(api, AMPERE, VERSION, strip=True)
    assert str(caught.value) == (
        "a plan that later releases run cannot take its weights when it is opened "
        "(got --compatible version and --strip-weights; expected one of them). Leave --strip-weights out."
    )


def test_hardware_compatible_plans_may_be_stripped(monkeypatch):
    monkeypatch.setattr(hardware, "devices", lambda: [L4])
    assert build(by_version("11.4"), AMPERE, strip=True).options["strip_weights"] is True
