"""The code that touches TensorRT uses names, and calls them with arguments, that every supported version really has."""

import ast
import importlib
from pathlib import Path

import pytest
from tensorrt_api import compact
from tensorrt_api.tables import APIS
from tensorrt_api.uses import Call, follow

from deploy.engine.flavours import FLAVOURS

ROOT = Path(__file__).resolve().parents[2]
ALIASES = {
    node.target.id
    for node in ast.walk(ast.parse((ROOT / "deploy" / "engine" / "api.py").read_text()))
    if isinstance(node, ast.AnnAssign)
}
# The only excuse for what some version lacks: the code asks this capability before it uses it.
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

# Attributes of our own that are called as one of TensorRT's: what a manifest or a runner says of its memory.
OURS = {"device_memory"}


def sources():
    """What may touch TensorRT, file → text: the package, the benchmarks, the tests that are marked gpu."""
    files = [*ROOT.glob("deploy/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    tests = [path for path in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in path.read_text()]
    return {str(path.relative_to(ROOT)): path.read_text() for path in (*files, *tests)}


@pytest.fixture(scope="module")
def files():
    return follow(sources(), APIS, ALIASES)


@pytest.fixture(scope="module")
def used(files):
    return set().union(*(followed.uses for followed in files.values()))


def unfit(api, used):
    return [use for use in used if not use.fits(api) and not excused(api, use)]


def excused(api, use):
    guard = GUARDED.get((use.owner, use.member))
    return guard is not None and not getattr(FLAVOURS[api.flavour], guard)


@pytest.mark.parametrize("api", APIS, ids=str)
def test_every_use_fits(api, used):
    found = unfit(api, used)
    assert not found


def test_what_is_asked_for_exists_somewhere(used):
    """``hasattr(context, "set_stream")`` is False for ever where the name is wrong."""
    asked = {(use.owner, use.member) for use in used if use.how == "asked"}
    assert not [each for each in asked if not any(api.has(*each) for api in APIS)]


def test_nothing_is_missed(files):
    """An attribute named like a member of TensorRT's is followed, wherever it is; or the check would not see it."""
    missed = {(name, *each) for name, followed in files.items() for each in followed.missed if each[0] not in OURS}
    assert not missed, "annotate what it is an attribute of with a name of deploy/engine/api.py"


def test_what_is_followed(files, used):
    """A check that followed nothing would pass: each class that the code names must be met, and what it calls."""
    owners = {use.owner for use in used}
    named = (ALIASES - {"TensorRt"}) | {"module"}
    assert named <= owners, f"not followed: {sorted(named - owners)}"
    enums = {"NetworkDefinitionCreationFlag", "MemoryPoolType", "BuilderFlag", "TensorIOMode", "TensorFormat"}
    assert enums <= owners
    found = {(use.owner, use.member) for use in used}
    assert {("IBuilderConfig", "progress_monitor"), ("ITensor", "shape")} <= found
    assert len(found) >= 60
    calls = {(use.owner, use.member) for use in used if isinstance(use.how, Call)}
    assert calls >= CALLED, f"not followed: {sorted(CALLED - calls)}"
    assert "tests/deploy/runtime/test_trt_gpu.py" in files


CALLED = {
    ("module", "Builder"),
    ("module", "OnnxParser"),
    ("module", "Runtime"),
    ("Builder", "create_network"),
    ("Builder", "build_serialized_network"),
    ("OnnxParser", "parse"),
    ("OnnxParser", "get_error"),
    ("ParserError", "node_name"),
    ("INetworkDefinition", "get_input"),
    ("IOptimizationProfile", "set_shape"),
    ("IBuilderConfig", "add_optimization_profile"),
    ("IBuilderConfig", "set_memory_pool_limit"),
    ("IBuilderConfig", "create_timing_cache"),
    ("IBuilderConfig", "set_timing_cache"),
    ("ITimingCache", "serialize"),
    ("Runtime", "deserialize_cuda_engine"),
    ("ICudaEngine", "get_tensor_profile_shape"),
    ("ICudaEngine", "get_tensor_mode"),
    ("EngineInspector", "get_engine_information"),
    ("IExecutionContext", "set_input_shape"),
    ("IExecutionContext", "set_tensor_address"),
    ("IExecutionContext", "execute_async_v3"),
    ("ILogger", "log"),  # as overridden
    ("IProfiler", "report_layer_time"),
    ("IProgressMonitor", "step_complete"),
}


def test_no_stale_excuse(used):
    assert set(GUARDED) <= {(use.owner, use.member) for use in used}


def test_versions():
    """DESIGN's list: JetPack 6 to the newest, and RTX."""
    versions = {(api.flavour, tuple(api.version.split(".")[:2])) for api in APIS}
    assert versions == {
        *(("tensorrt", tuple(v.split("."))) for v in ("10.3", "10.7", "10.13", "10.16", "11.0", "11.4")),
        ("tensorrt_rtx", ("1", "7")),
    }
    for api in APIS:
        assert tuple(map(int, api.version.split(".")[:2])) >= FLAVOURS[api.flavour].minimum


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_installed_module_is_what_its_table_says(flavour):
    """The tables are what the modules have: shown on the one that is here, if one of the tables' versions is."""
    try:
        module = importlib.import_module(flavour)
    except ImportError as error:
        pytest.skip(str(error))
    table = next((api for api in APIS if (api.flavour, api.version) == (flavour, module.__version__)), None)
    if table is None:
        pytest.skip(f"no table of {flavour} {module.__version__}")
    made = compact.compact(compact.introspect(module))
    assert made == {"version": table.version, **{group: getattr(table, group) for group in made if group != "version"}}
