"""The code that touches TensorRT uses only names that every supported version really has."""

import ast
from pathlib import Path

import pytest
from tensorrt_api.tables import APIS
from tensorrt_api.uses import Use, uses

import deploy
from deploy.engine.flavours import FLAVOURS

PACKAGE = Path(deploy.__file__).parent
FILES = [*sorted((PACKAGE / "engine").glob("*.py")), *sorted((PACKAGE / "runtime").glob("trt*.py"))]
ALIASES = {
    node.target.id
    for node in ast.walk(ast.parse((PACKAGE / "engine" / "api.py").read_text()))
    if isinstance(node, ast.AnnAssign)
}
# The only excuse for a name that some version lacks: the code asks this capability before it uses it.
GUARDED = {
    ("module", "ComputeCapability"): "compute_capabilities",
    ("IBuilderConfig", "num_compute_capabilities"): "compute_capabilities",
    ("IBuilderConfig", "set_compute_capability"): "compute_capabilities",
    ("module", "EngineValidity"): "validity",
    ("module", "EngineInvalidityDiagnostics"): "validity",
    ("EngineValidity", "SUBOPTIMAL"): "validity",
    ("EngineValidity", "VALID"): "validity",
    ("Runtime", "engine_header_size"): "validity",
    ("Runtime", "get_engine_validity"): "validity",
    ("module", "CudaGraphStrategy"): "jit",
    ("module", "DynamicShapesKernelSpecializationStrategy"): "jit",
    ("CudaGraphStrategy", "DISABLED"): "jit",
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): "jit",
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"): "jit",
    ("DynamicShapesKernelSpecializationStrategy", "LAZY"): "jit",
    ("ICudaEngine", "create_runtime_config"): "jit",
    ("IRuntimeConfig", "cuda_graph_strategy"): "jit",
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"): "jit",
    ("IRuntimeConfig", "create_runtime_cache"): "jit",
    ("IRuntimeConfig", "set_runtime_cache"): "jit",
    ("IRuntimeCache", "deserialize"): "jit",
    ("IRuntimeCache", "serialize"): "jit",
}


@pytest.fixture(scope="module")
def used():
    return {(path.name, use) for path in FILES for use in uses(path.read_text(), APIS, ALIASES)}


def lacking(api, used):
    return [use for use in used if not api.has(use.owner, use.member, written=use.written) and not excused(api, use)]


def excused(api, use):
    guard = GUARDED.get((use.owner, use.member))
    return guard is not None and not getattr(FLAVOURS[api.flavour], guard)


@pytest.mark.parametrize("api", APIS, ids=str)
def test_every_name_is_there(api, used):
    found = lacking(api, {use for _, use in used})
    assert not found


def test_every_class_is_reached(used):
    """A check that followed nothing would pass: each class that the code names, and each enumeration, must be met."""
    owners = {use.owner for _, use in used}
    named = (ALIASES - {"TensorRt"}) | {"module"}
    assert named <= owners, f"not followed: {sorted(named - owners)}"
    found = {(use.owner, use.member) for _, use in used}
    assert {("Builder", "create_network"), ("IBuilderConfig", "progress_monitor"), ("ITensor", "shape")} <= found
    enums = {"NetworkDefinitionCreationFlag", "MemoryPoolType", "BuilderFlag", "TensorIOMode", "TensorFormat"}
    assert enums <= owners
    assert len(found) >= 60


def test_no_stale_excuse(used):
    assert set(GUARDED) <= {(use.owner, use.member) for _, use in used}


PLANTED = """
def build(flavour: Flavour, builder: Builder, config: IBuilderConfig) -> None:
    trt = flavour.module
    if builder.platform_has_fast_fp16:
        config.set_flag(trt.BuilderFlag.FP16)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    network.num_inputs = 3
    config.int8_calibrator = None
"""


def test_removed_names_are_found_out():
    planted = uses(PLANTED, APIS, ALIASES)
    newest = next(api for api in APIS if api.version.startswith("11.4"))
    oldest = next(api for api in APIS if api.version.startswith("10.3"))
    gone = {(use.owner, use.member) for use in lacking(newest, planted)}
    assert gone == {
        ("Builder", "platform_has_fast_fp16"),
        ("BuilderFlag", "FP16"),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        ("INetworkDefinition", "num_inputs"),  # read-only
        ("IBuilderConfig", "int8_calibrator"),
    }
    assert lacking(oldest, planted) == [Use("INetworkDefinition", "num_inputs", True, 8)]


def test_versions():
    """DESIGN's list: JetPack 6 to the newest, and RTX."""
    versions = {(api.flavour, tuple(api.version.split(".")[:2])) for api in APIS}
    assert versions == {
        *(("tensorrt", tuple(v.split("."))) for v in ("10.3", "10.7", "10.13", "10.16", "11.0", "11.4")),
        ("tensorrt_rtx", ("1", "7")),
    }
    for api in APIS:
        assert tuple(map(int, api.version.split(".")[:2])) >= FLAVOURS[api.flavour].minimum
