"""Other tools' graphs of every age: raised, simplified, and checked; what cannot be built is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
from commands import Cli
from graphs import constant, old_graph, saved, tensor, weight
from onnx import TensorProto, helper

node = helper.make_node


def write(opset: int, ir_version: int = 8) -> None:
    onnx.save(old_graph(opset, ("N", 3, 32, 32), ir_version), "old.onnx")


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(9, 3), (10, 4), (11, 3), (12, 6), (13, 8), (15, 8), (17, 8), (18, 8)]
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_old_graph_is_raised_and_its_batch_norm_folded(
    cli: Cli, here: Path, opset: int, ir_version: int, precision: str
):
    write(opset, ir_version)
    built = cli.done("build", "old.onnx", "--precision", precision, "--calibration-data", "photos")
    assert built.err.count(f"old.onnx: raised from opset {opset} to 19\n") == 1
    assert "used as it is" not in built.err
    graph = onnx.load(f"old.{precision}.onnx")
    operators = {each.op_type for each in graph.graph.node}
    assert operators.isdisjoint({"BatchNormalization", "Dropout", "Identity", "Constant"})
    assert [each.name for each in graph.graph.input] == ["image"]
    assert (graph.ir_version, graph.opset_import[0].version) == (max(ir_version, 4), 19)
    assert "graph against FP32   SQNR" in built.out
    cli.done("verify", "old.onnx", f"old.{precision}.onnx", "--data", "photos")


@pytest.mark.parametrize("opset", [20, 21, 22])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_newer_graph_stays_at_its_opset(cli: Cli, here: Path, opset: int, precision: str):
    write(opset, 10)
    built = cli.done("build", "old.onnx", "--precision", precision, "--calibration-data", "photos")
    assert "raised" not in built.err
    assert onnx.load("old.onnx" if precision == "fp32" else f"old.{precision}.onnx").opset_import[0].version == opset


def test_an_fp32_engine_is_built_from_the_file_as_it_is(cli: Cli, here: Path):
    write(11, 3)
    before = Path("old.onnx").read_bytes()
    assert cli.done("build", "old.onnx", "--precision", "fp32", "--json").document["plan"] == "old.fp32.rtx.plan"
    assert Path("old.onnx").read_bytes() == before


def damaged(proto: onnx.ModelProto, *_: object) -> tuple[onnx.ModelProto, bool]:
    """A step that turns the scores round."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for each in copy.graph.node:
        each.output[:] = ["turned" if name == "scores" else name for name in each.output]
    copy.graph.node.append(node("Neg", ["turned"], ["scores"], name="turn"))
    return copy, True


def test_a_simplification_that_changes_the_result_is_not_used(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    write(19, 10)
    with monkeypatch.context() as patch:
        patch.setattr(onnxsim, "simplify", damaged)
        built = cli.done("build", "old.onnx", "--precision", "fp16", "--backend", "none")
    assert "warning: old.onnx is used as it is: simplified, it computes something else (scores: " in built.err
    assert "BatchNormalization" in {each.op_type for each in onnx.load("old.fp16.onnx").graph.node}
    cli.done("verify", "old.onnx", "old.fp16.onnx")


def test_a_simplifier_that_fails_is_done_without(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    write(13)

    def failing(proto: onnx.ModelProto) -> None:
        raise RuntimeError("it is Friday")

    monkeypatch.setattr(onnxsim, "simplify", failing)
    built = cli.done("build", "old.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "none")
    assert "warning: old.onnx is used as it is: onnxsim cannot read the graph (got it is Friday)" in built.err
    assert "raised from opset 13 to 19" in built.err


def test_without_onnxsim_it_is_built_as_it_is(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    write(18)
    monkeypatch.setitem(sys.modules, "deploy.graph.simplify", None)
    built = cli.done("build", "old.onnx", "--precision", "fp16")
    assert "old.onnx is not simplified: onnxsim is not installed (pip install onnxsim)" in built.err
    assert "BatchNormalization" in {each.op_type for each in onnx.load("old.fp16.onnx").graph.node}


def test_a_conversion_that_changes_the_result_is_refused(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    from onnx import version_converter

    write(17)
    convert = version_converter.convert_version
    monkeypatch.setattr(version_converter, "convert_version", lambda proto, opset: damaged(convert(proto, opset))[0])
    error = cli.refused(2, "build", "old.onnx", "--precision", "fp16")
    assert error.startswith("old.onnx computes something else at opset 19 (got scores: relative error ")
    assert error.endswith("Export it again with opset 19.")


def test_a_conversion_that_fails_is_refused(cli: Cli, here: Path):
    write(6)
    error = cli.refused(2, "build", "old.onnx", "--precision", "fp16")
    assert error.startswith("the graph cannot be raised from opset 6 (got ")


def test_our_own_graph_is_not_touched(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.workflows.source.prepare", lambda *_: 1 / 0)
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")


REFUSED = {
    "custom": (
        "refused.onnx holds operators that ONNX does not define (got 2 acme.Frob). Export it with standard operators"
    ),
    "quantized": "refused.onnx is quantized already, in operators that TensorRT does not read (got 1 MatMulInteger; ",
    "control flow": "control flow and functions have no reduced precision (got If; expected one flat graph). Simplify",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_cannot_be_built(cli: Cli, here: Path, kind: str, precision: str):
    """FP32 control flow is left to the builder."""
    x, y = tensor("x", ["N", 4]), tensor("y", ["N", 4])
    nodes = {
        "custom": [node("Frob", ["x"], ["h"], domain="acme"), node("Frob", ["h"], ["y"], domain="acme")],
        "quantized": [
            node("Cast", ["x"], ["i"], to=TensorProto.INT8),
            node("MatMulInteger", ["i", "w"], ["p"]),
            node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
        ],
        "control flow": [
            node("ReduceSum", ["x"], ["sum"], keepdims=0),
            node("Greater", ["sum", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=_branch("Relu"), else_branch=_branch("Neg")),
        ],
    }[kind]
    weights = [constant("zero", 0)] if kind == "control flow" else [constant("w", np.eye(4), np.int8)]
    proto = helper.make_model(
        helper.make_graph(nodes, "refused", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid("acme", 1)],
        ir_version=10,
    )
    onnx.save(proto, "refused.onnx")
    np.savez("data.npz", x=np.ones((4, 4), np.float32))
    argv = ("refused.onnx", "--precision", precision, "--calibration-data", "data.npz")
    if (kind, precision) == ("control flow", "fp32"):
        cli.done("build", *argv)
    else:
        assert cli.refused(2, "build", *argv).startswith(REFUSED[kind])


def _branch(operator: str) -> onnx.GraphProto:
    result = tensor(f"{operator}_y", ["N", 4])
    return helper.make_graph([node(operator, ["x"], [result.name])], operator, [], [result])


def test_functions_are_put_in_line(cli: Cli, empty: Path):
    """torch's exporter leaves functions where it is told not to optimize."""
    function = helper.make_function(
        "pkg", "twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 19)]
    )
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("twice", ["h"], ["y"], domain="pkg")]
    graph = helper.make_graph(nodes, "f", [tensor("x", ["N", 8])], [tensor("y", ["N", 5])], [weight("w", 8, 5)])
    imports = [helper.make_opsetid("", 19), helper.make_opsetid("pkg", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10), "functions.onnx")
    cli.done("build", "functions.onnx", "--precision", "fp16")
    assert {each.op_type for each in onnx.load("functions.fp16.onnx").graph.node} == {"Cast", "MatMul", "Add"}


def test_an_integer_input_that_overruns_its_table_is_checked_on_given_arrays(cli: Cli, empty: Path):
    """What integers mean the graph may hide; arrays tell."""
    nodes = [
        node("Sub", ["ids", "hundred"], ["index"]),
        node("Gather", ["table", "index"], ["y"]),
    ]
    weights = [weight("table", 4, 6), constant("hundred", 100, np.int64)]
    saved("ids.onnx", nodes, [tensor("ids", ["N"], TensorProto.INT64)], [tensor("y", ["N", 6])], weights)
    assert "indices element out of data bounds" in cli.refused(2, "build", "ids.onnx", "--precision", "fp16")
    np.savez("ids.npz", ids=np.arange(100, 104))
    cli.done("build", "ids.onnx", "--precision", "fp16", "--calibration-data", "ids.npz")
