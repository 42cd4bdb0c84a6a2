"""INT8 layers that a target has no kernel for: out of INT8 and built again, on simulated builders that refuse them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from commands import Cli, write_images
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.artifacts import sha256_file
from deploy.engine import refusals
from deploy.engine.build import build_engine
from deploy.workflows import refused

BUILD = ("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "tensorrt")
NEWEST = next(api for api in APIS if api.version.startswith("11.4"))


@pytest.fixture
def target(net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call it with a row of the API tables and the nodes that its builder has no INT8 kernel for.

    ``net.onnx`` is a chain of three convolutions, the second of which a residual Add skips.
    """
    monkeypatch.chdir(tmp_path)
    first = net.op("Relu", "first", net.conv("first_conv", "input", (3, 16), 3))
    second = net.op("Add", "sum", net.conv("second_conv", first, (16, 16), 3), first)
    third = net.op("Relu", "third", net.conv("third_conv", second, (16, 16), 3))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", third))
    net.op("Gemm", "logits", flat, net.weight("head", 20, 16), net.weight("bias", 20), transB=1)
    onnx.save(ir.to_proto(net.model("logits", ["batch", 20])), "net.onnx")
    write_images(Path("photos"), 6)

    def install(api, *nodes: str):
        flavour = simulate(api, refuses=nodes)
        monkeypatch.setattr("deploy.workflows.build.choose_flavour", lambda backend: flavour)
        return flavour

    return install


def int8_layers(path: str) -> set[str]:
    """The nodes that read INT8 data and weight."""
    graph = onnx.load(path).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    reads = {node.name: [made.get(name) for name in node.input] for node in graph.node}
    return {name for name, operators in reads.items() if operators.count("DequantizeLinear") >= 1}


@pytest.mark.parametrize("api", APIS, ids=str)
def test_they_return_to_fp16(cli: Cli, target, api):
    target(api)
    before = cli.done(*BUILD, "--json").document
    everything = int8_layers("net.int8.onnx")
    assert before["refused"] == {}
    assert everything == {"first_conv_node", "second_conv_node", "sum_node", "third_conv_node", "logits_node"}
    flavour = target(api, "third_conv_node", "first_conv_node")
    done = cli.done(*BUILD, "--json")
    refused = done.document["refused"]
    assert set(refused) >= {"first_conv_node", "third_conv_node"}
    assert int8_layers("net.int8.onnx") == everything - set(refused)
    facts = done.document["manifest"]["quantization"]
    assert facts["refused"] == refused
    assert set(facts["left_out"]) >= {"first_conv_node", "third_conv_node"}
    assert facts["left_out"]["third_conv_node"].startswith("the target refuses it in INT8: ")
    assert done.err.count("no INT8 kernel for ") == 2
    assert "no INT8 kernel for first_conv_node: out of INT8, and the engine is built again" in done.err
    engine = done.document["manifest"]["engine"]
    assert engine["version"] == flavour.version
    assert (engine["onnx_file"], engine["onnx_sha256"]) == ("net.int8.onnx", sha256_file(Path("net.int8.onnx")))
    assert [figures["how"] for figures in done.document["manifest"]["parity"]] == ["simulated"]
    assert len(done.document["evidence"]) == 2, "of what was built, not of what was refused"


def test_the_graph_is_as_if_they_had_been_left_out_at_first(cli: Cli, target):
    """Their weights are the FP32 graph's in FP16, not those of the INT8 graph."""
    target(NEWEST, "second_conv_node")
    cli.done(*BUILD, "--without", "equalization")
    model = onnx.load("net.int8.onnx")
    (weight,) = [each for each in model.graph.initializer if each.name.startswith("second_conv.weight")]
    (source,) = [each for each in onnx.load("net.onnx").graph.initializer if each.name == "second_conv.weight"]
    wanted = onnx.numpy_helper.to_array(source).astype("float16")
    assert (onnx.numpy_helper.to_array(weight) == wanted).all()


def test_it_is_told_in_the_table_and_by_inspect(cli: Cli, target):
    target(NEWEST, "third_conv_node")
    assert "1: third_conv_node" in cli.done(*BUILD).out
    assert "1: third_conv_node" in cli.done("inspect", "net.int8.onnx").out


def test_a_searched_graph_keeps_its_search(cli: Cli, target):
    target(NEWEST, "third_conv_node")
    facts = cli.done(*BUILD, "--max-drop", "99", "--json").document["manifest"]["quantization"]
    assert set(facts["refused"]) == {"third_conv_node"}
    assert facts["search"]["budget"] == 99


@pytest.mark.parametrize("region", ["pool_node...flat_node", "first_conv_node...logits_node"], ids=["none", "all"])
def test_a_refusal_of_no_int8_or_of_all(cli: Cli, target, monkeypatch: pytest.MonkeyPatch, region: str):
    """What INT8 is not to blame for, or only the whole of it, fails at once with the builder's words."""
    flavour = target(NEWEST)
    words = f"Could not find any implementation for node {{ForeignNode[{region}]}}."
    builds = []

    def refuse(self, graph):
        builds.append(1)
        return words

    monkeypatch.setattr(flavour.module.Builder, "_refused", refuse)
    result = cli(*BUILD)
    assert result.code == 2
    assert f"cannot build this graph (got Error Code 10: Internal Error ({words})" in result.error
    assert len(builds) == 1
    assert not list(Path().glob("*.plan")) + list(Path().glob("net.int8.onnx"))


def test_rounds_are_bounded(cli: Cli, target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refused, "MOST_ROUNDS", 1)
    target(NEWEST, "first_conv_node", "third_conv_node")
    result = cli(*BUILD)
    assert result.code == 2
    assert "Could not find any implementation for node" in result.error
    assert result.err.count("no INT8 kernel for ") == 1
    assert not list(Path().glob("*.plan*"))


def test_a_layer_named_again_is_no_new_one(cli: Cli, target, monkeypatch: pytest.MonkeyPatch):
    """A builder that says the same of the graph without it would else be asked for ever."""
    flavour = target(NEWEST)
    words = "Could not find any implementation for node third_conv_node."
    monkeypatch.setattr(flavour.module.Builder, "_refused", lambda self, graph: words)
    result = cli(*BUILD)
    assert result.code == 2
    assert result.err.count("no INT8 kernel for third_conv_node") == 1
    assert refused.MOST_ROUNDS > 2


AS_IT_IS = ("build", "net.int8.onnx", "--precision", "int8", "--backend", "tensorrt")


def test_a_graph_that_came_with_its_qdq(cli: Cli, target):
    """It stays as it is; what was built lies beside the engine, under a name of its own, and the manifest says so."""
    target(NEWEST)
    cli.done(*BUILD[:-2], "--backend", "none")
    given, layers = Path("net.int8.onnx").read_bytes(), int8_layers("net.int8.onnx")
    target(NEWEST, "third_conv_node")
    document = cli.done(*AS_IT_IS, "--calibration-data", "photos", "--json").document
    assert Path("net.int8.onnx").read_bytes() == given
    assert document["onnx"] == "net.rebuilt.int8.onnx"
    assert int8_layers("net.rebuilt.int8.onnx") == layers - {"third_conv_node"}
    engine = document["manifest"]["engine"]
    assert engine["onnx_file"] == "net.rebuilt.int8.onnx"
    assert engine["onnx_sha256"] == sha256_file(Path("net.rebuilt.int8.onnx"))
    assert set(document["refused"]) == {"third_conv_node"}
    assert document["verdicts"]["graph"]["top1"] == 1
    onnx.checker.check_model("net.rebuilt.int8.onnx", full_check=True)


def test_of_a_foreign_graph_without_images(cli: Cli, target):
    target(NEWEST)
    cli.done(*BUILD[:-2], "--backend", "none")
    model = onnx.load("net.int8.onnx")
    del model.metadata_props[:]
    onnx.save(model, "net.int8.onnx")
    target(NEWEST, "first_conv_node", "third_conv_node")
    document = cli.done(*AS_IT_IS, "--json").document
    assert set(document["refused"]) >= {"first_conv_node", "third_conv_node"}
    assert document["evidence"][0] == "net.rebuilt.int8.onnx: not compared: no --calibration-data"


@pytest.mark.parametrize("given", [False, True], ids=["ours", "as it is"])
def test_nvidias_builder_takes_what_is_left(cli: Cli, target, monkeypatch: pytest.MonkeyPatch, given: bool):
    """TensorRT-RTX builds all: it is made to refuse a layer once, and then builds the graph without it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    if given:
        cli.done(*BUILD[:-2], "--backend", "none")
    refusal = refusals.refusals(["Could not find any implementation for node third_conv_node."])
    answers = [refusals.NoImplementationError("cannot build", refusal, got="no", fix="none", details=())]

    def once(*args, **kwargs):
        if answers:
            raise answers.pop()
        return build_engine(*args, **kwargs)

    monkeypatch.setattr("deploy.workflows.build.build_engine", once)
    command = AS_IT_IS if given else BUILD
    document = cli.done(*command[:-1], "tensorrt_rtx", "--json").document
    assert set(document["refused"]) == {"third_conv_node"}
    assert document["manifest"]["engine"]["flavour"] == "tensorrt_rtx"


def test_another_precision_has_no_int8_to_leave(cli: Cli, target, monkeypatch: pytest.MonkeyPatch):
    flavour = target(NEWEST)
    words = "Could not find any implementation for node third_conv_node."
    monkeypatch.setattr(flavour.module.Builder, "_refused", lambda self, graph: words)
    error = cli.refused(2, "build", "net.onnx", "--precision", "fp16", "--backend", "tensorrt")
    assert words in error
