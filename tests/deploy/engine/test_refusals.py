"""Which layers a builder refuses, from its own words."""

import pytest
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.engine.refusals import NoImplementationError, refusals
from deploy.specs import ShapeProfile

NO = "Could not find any implementation for node"


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        # The forms that TensorRT 8 to 11 have printed, as quoted in issues of NVIDIA/TensorRT.
        (f"10: {NO} /conv1/Conv + PWN(/act/Relu).", {"/conv1/Conv", "/act/Relu"}, set()),
        (
            f"10: [optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error ({NO} features.0.0/Conv.)",
            {"features.0.0/Conv"},
            set(),
        ),
        (
            f"IBuilder::buildSerializedNetwork: Error Code 10: Internal Error ({NO} a/Conv + PWN(b/Relu). "
            "In computeCosts at optimizer/common/tactic/optimizer.cpp:4115)",
            {"a/Conv", "b/Relu"},
            set(),
        ),
        (
            f"Error Code 10: Internal Error ({NO} {{ForeignNode[/l.7/Transpose_2...(Unnamed Layer* 142) [Shuffle]]}}.)",
            {"/l.7/Transpose_2"},
            {"(Unnamed Layer* 142) [Shuffle]"},
        ),
        (
            f"{NO} {{ForeignNode[x/QuantizeLinear + a/Conv.../backbone/Reshape_3 + /backbone/Transpose_3]}}.",
            {"x/QuantizeLinear", "a/Conv"},
            {"/backbone/Reshape_3", "/backbone/Transpose_3"},
        ),
        (f"{NO} {{[ONNX Layer: a/Conv | Block] [ONNX Layer: b/Relu]}}", {"a/Conv", "b/Relu"}, set()),
        (
            "Error Code 9: Internal Error (a/Conv: could not find any supported formats consistent with input/output "
            "data types)",
            {"a/Conv"},
            set(),
        ),
    ],
)
def test_words(text, first, last):
    (found,) = refusals(["something else failed", text])
    assert (found.first, found.last) == (first, last)


@pytest.mark.parametrize(
    "text",
    [
        "BuildCanceled",
        "CUDA out of memory",
        f"{NO} a/Conv due to insufficient workspace. See verbose log for requested sizes.",
    ],
)
def test_other_failures(text):
    assert refusals([text]) == []


def test_said_twice_it_is_one():
    assert len(refusals([f"{NO} a/Conv.", f"Error Code 10: Internal Error ({NO} a/Conv.)"])) == 1


@pytest.mark.parametrize("api", APIS, ids=str)
def test_a_build_that_fails_of_it_says_so(api):
    flavour = simulate(api, refuses=["/conv"])
    with pytest.raises(NoImplementationError) as caught:
        build_engine(network("int8"), flavour=flavour, batch=ShapeProfile(1, 4, 8))
    (refusal,) = caught.value.refusals
    assert {"/dq", "/relu"} <= refusal.first | refusal.last
    assert NO in caught.value.headline
    assert build_engine(network("fp16"), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
