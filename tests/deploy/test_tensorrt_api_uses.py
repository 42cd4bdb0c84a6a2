"""Wrong uses of TensorRT planted in small sources: the check that reads the package finds each of them."""

import pytest
from tensorrt_api import compact
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS
from tensorrt_api.uses import Call, Use, follow

ALIASES = {"TensorRt", "Builder", "IBuilderConfig", "ICudaEngine", "IExecutionContext"}
OLDEST, NEWEST = (next(api for api in APIS if api.version.startswith(version)) for version in ("10.3", "11.4"))


def unfit(api, text):
    uses = follow({"planted": text}, APIS, ALIASES)["planted"].uses
    return [use for use in uses if not use.fits(api)]


def planted(source, api):
    """(owner, member) of what is found wrong in a function whose parameters are those that the package has."""
    parameters = "flavour: Flavour, builder: Builder, config: IBuilderConfig, context: IExecutionContext"
    text = f"def build({parameters}, engine: ICudaEngine) -> None:\n    trt = flavour.module\n    {source}\n"
    return {(use.owner, use.member) for use in unfit(api, text)}


REMOVED = {
    "builder.platform_has_fast_fp16": ("Builder", "platform_has_fast_fp16"),
    "config.set_flag(trt.BuilderFlag.FP16)": ("BuilderFlag", "FP16"),
    "1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)": ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    "config.int8_calibrator = None": ("IBuilderConfig", "int8_calibrator"),
}
WRONG = {
    # arity
    "context.set_tensor_address('input')": ("IExecutionContext", "set_tensor_address"),
    "context.set_tensor_address('input', 1, 2)": ("IExecutionContext", "set_tensor_address"),
    "context.execute_async_v3()": ("IExecutionContext", "execute_async_v3"),
    "context.execute_async_v3(*handles)": ("IExecutionContext", "execute_async_v3"),
    "trt.Builder()": ("module", "Builder"),
    "trt.Runtime(logger, 1)": ("module", "Runtime"),
    "[builder.create_network(0).get_input() for _ in ()]": ("INetworkDefinition", "get_input"),
    # keywords
    "context.set_input_shape(name='input', dims=(1, 3))": ("IExecutionContext", "set_input_shape"),
    "context.set_input_shape('input', name='input', shape=(1, 3))": ("IExecutionContext", "set_input_shape"),
    "builder.create_network(flag=1)": ("Builder", "create_network"),
    "config.set_timing_cache(cache=None, **rest)": ("IBuilderConfig", "set_timing_cache"),
    # a property called, a method not called, what cannot be written written, what cannot be made made
    "engine.num_io_tensors()": ("ICudaEngine", "num_io_tensors"),
    "engine.serialize.nbytes": ("ICudaEngine", "serialize"),
    "engine.num_layers = 3": ("ICudaEngine", "num_layers"),
    "trt.ICudaEngine()": ("module", "ICudaEngine"),
    "engine.get_binding_shape(0)": ("ICudaEngine", "get_binding_shape"),
}
RIGHT = [
    "context.set_input_shape(name='input', shape=(1, 3))",
    "builder.create_network()",
    "builder.create_network(flags=1)",
    "engine.get_tensor_format('input', profile_index=0)",
    "config.max_aux_streams = 0",
    "made(engine.create_execution_context)",
    "made(engine.create_execution_context())",
]


@pytest.mark.parametrize("source", REMOVED)
def test_removed_names_are_found_out(source):
    assert planted(source, OLDEST) == set()
    assert planted(source, NEWEST) == {REMOVED[source]}


@pytest.mark.parametrize("source", WRONG)
def test_wrong_uses_are_found_out(source):
    assert [planted(source, api) for api in APIS] == [{WRONG[source]}] * len(APIS)


@pytest.mark.parametrize("source", RIGHT)
def test_right_uses_are_not(source):
    assert [planted(source, api) for api in APIS] == [set()] * len(APIS)


@pytest.mark.parametrize(
    "member", ["log(self, severity)", "log(self, severity, msg, more)", "write(self, severity, msg)"]
)
def test_wrong_overrides_are_found_out(member):
    text = f"def make(trt: TensorRt):\n    class Mine(trt.ILogger):\n        def {member}: ..."
    assert {("ILogger", member.partition("(")[0])} == {(use.owner, use.member) for use in unfit(NEWEST, text)}


def test_a_use_that_cannot_be_followed_is_told():
    text = "def run(context):\n    context.execute_async_v3(0)\n"
    assert follow({"planted": text}, APIS, ALIASES)["planted"].missed == {("execute_async_v3", 2)}


def test_an_attribute_is_followed_into_other_files():
    base = "class Runner:\n    def __init__(self):\n        self._context: IExecutionContext = None\n"
    derived = "class Timed(Runner):\n    def once(self):\n        self._context.execute_async_v3(0)\n"
    found = follow({"base": base, "derived": derived}, APIS, ALIASES)["derived"]
    assert found.uses == {Use("IExecutionContext", "execute_async_v3", Call(1), 3)}
    assert not found.missed


@pytest.mark.parametrize("api", APIS, ids=str)
def test_the_stand_in_is_called_as_the_real_classes_are(api):
    """Whatever its own methods would take."""
    trt = simulate(api).module
    config, profile = trt.IBuilderConfig(), trt.IOptimizationProfile()
    with pytest.raises(TypeError, match=r"set_memory_pool_limit\(\): incompatible function arguments"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1)
    with pytest.raises(TypeError, match=r"set_shape\(\): incompatible function arguments"):
        profile.set_shape("input", (1, 3), (1, 3))


SIGNATURES = {
    "f(self: A, flags: typing.SupportsInt = 0) -> INetworkDefinition": "(flags=)INetworkDefinition",
    "f(self: A, strategy: S = <S.STATIC: 0>, to: dict[str, int]) -> tuple[int, int]": "(strategy=,to)",
    "f(self: A, arg0: ICudaEngine) -> nvinfer1::IRuntimeCache": "(arg0)IRuntimeCache",
    "f(self: A, index: int) -> nvonnxparser::IParserError": "(index)ParserError",
    "f() -> bool": "()",
}


@pytest.mark.parametrize("text", SIGNATURES)
def test_signatures_are_made_compact(text):
    known = dict.fromkeys(("INetworkDefinition", "IRuntimeCache", "ParserError"))
    assert compact.signature(text, known) == SIGNATURES[text]
