from __future__ import annotations

import threading

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deploy.errors import InputError, MachineError
from deploy.graph import files
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.manifest import Manifest
from deploy.runtime.onnxrt import OnnxRunner
from deploy.specs import Precision, TensorSpec


def _graph(kind, inputs, outputs, dtype=TensorProto.FLOAT, shape=("batch", 4), opset=19, ir_version=10, **attributes):
    """One node, as bytes."""
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, name="only", **attributes)],
        "net",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(name, dtype, shape) for name in outputs],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


RELU = _graph("Relu", ["input"], ["logits"])


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


@pytest.fixture
def runner():
    with OnnxRunner(RELU, device="cpu", threads=1) as opened:
        yield opened


def test_computes_what_onnx_runtime_does(mini, images, run):
    with OnnxRunner(files.to_bytes(mini), device="cpu", threads=1) as opened:
        got = opened.infer({"input": images})
    np.testing.assert_allclose(got["logits"], run(mini, images)["logits"], rtol=1e-5, atol=1e-6)


def test_it_says_what_it_is(runner):
    assert runner.backend == "onnxrt"
    assert runner.execution == f"executed on CPU (ONNX Runtime {ort.__version__})"
    assert runner.inputs == (TensorSpec("input", "float32", ("batch", 4)),)
    assert runner.outputs == (TensorSpec("logits", "float32", ("batch", 4)),)
    assert runner.manifest is None


@pytest.mark.parametrize("name", ["float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_types_by_numpys_names(name):
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(name))
    values = np.array([[0, 1, 1, 0]]).astype(name)
    with OnnxRunner(_graph("Identity", ["input"], ["logits"], dtype), device="cpu") as opened:
        assert opened.inputs[0].dtype == name
        np.testing.assert_array_equal(opened.infer({"input": values})["logits"], values)


def test_axes_without_a_name_are_numbered():
    with OnnxRunner(_graph("Relu", ["input"], ["logits"], shape=(None, "width", 3, None)), device="cpu") as opened:
        assert opened.inputs[0].shape == ("dim0", "width", 3, "dim3")


def test_the_manifest_is_read(tmp_path, mini):
    manifest = Manifest("net", Precision.FP32, (), ())
    files.save(tmp_path / "net.onnx", mini, manifest)
    with OnnxRunner(tmp_path / "net.onnx", device="cpu") as opened:
        assert opened.manifest == manifest


def test_a_damaged_manifest_names_the_file(tmp_path, mini):
    mini.metadata_props["deploy"] = "{"
    (tmp_path / "net.onnx").write_bytes(files.to_bytes(mini))
    with pytest.raises(InputError, match=r"the manifest of .*net.onnx cannot be read"):
        OnnxRunner(tmp_path / "net.onnx", device="cpu")


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, r"other names \(got \[\]; expected \['input'\]\)"),
        ({"image": rows(1)}, r"other names \(got \['image'\]; expected \['input'\]\)"),
        ({"input": rows(1), "more": rows(1)}, "other names"),
        ({"input": rows(1).astype(np.float64)}, r"got float64\[1, 4\]; expected float32\[batch, 4\]"),
        ({"input": rows(1)[:, :3]}, r"got float32\[1, 3\]"),
        ({"input": rows(1)[0]}, r"got float32\[4\]"),
    ],
)
def test_wrong_feeds(runner, feeds, said):
    with pytest.raises(InputError, match=said):
        runner.infer(feeds)


def test_feeds_need_not_be_contiguous(runner):
    feed = rows(6)[::2, ::-1]
    np.testing.assert_array_equal(runner.infer({"input": feed})["logits"], np.maximum(feed, 0))


@pytest.mark.parametrize("kind", ["Relu", "Identity"])
def test_results_own_their_memory(kind):
    with OnnxRunner(_graph(kind, ["input"], ["logits"]), device="cpu") as opened:
        feed = np.abs(rows(3))
        kept = feed.copy()
        first = opened.infer({"input": feed})["logits"]
        opened.infer({"input": np.abs(rows(3, 1))})
        feed[:] = -1
        np.testing.assert_array_equal(first, kept)
    first[:] = 7  # also writable, also after closing


def test_a_closed_runner(runner):
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="this runner is closed"):
        runner.infer({"input": rows(1)})


def test_threads_share_a_runner(runner):
    results = {}

    def work(seed):
        for _ in range(20):
            results[seed] = runner.infer({"input": rows(5, seed)})["logits"]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for seed, got in results.items():
        np.testing.assert_array_equal(got, np.maximum(rows(5, seed), 0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "No graph was found"),
        (b"garbage " * 50, "Protobuf parsing failed"),
        (RELU[: len(RELU) // 2], "Protobuf parsing failed"),
        (_graph("Relu", ["input"], ["logits"], opset=99), "Opset 99 is under development"),
        (_graph("Relu", ["input"], ["logits"], ir_version=99), "Unsupported model IR version: 99, max supported"),
        (_graph("Frobnicate", ["input"], ["logits"]), "No Op registered for Frobnicate"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, content, said, capfd):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"ONNX Runtime cannot load .*net.onnx \(got .*{said}") as caught:
        OnnxRunner(path, device="cpu")
    assert "onnxruntime_src" not in caught.value.headline
    if content:
        with pytest.raises(InputError, match="ONNX Runtime cannot load the graph"):
            OnnxRunner(content, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "net.onnx", tmp_path):
        with pytest.raises(InputError, match="no ONNX file at .* Export one: python export.py"):
            OnnxRunner(path)


def test_weights_beside_the_file_are_found(tmp_path, mini, images, run):
    path = tmp_path / "net.onnx"
    onnx.save(ir.to_proto(mini), path, save_as_external_data=True, location="net.data", size_threshold=100)
    with OnnxRunner(path, device="cpu", threads=1) as opened:
        got = opened.infer({"input": images})["logits"]
    np.testing.assert_allclose(got, run(mini, images)["logits"], rtol=1e-5, atol=1e-6)


def test_inputs_that_do_not_go_together(capfd):
    """Both fit their own shape, which names the same axis: only running shows it."""
    with OnnxRunner(_graph("Add", ["a", "b"], ["sum"]), device="cpu") as opened:
        with pytest.raises(InputError, match=r"cannot run the graph on these inputs \(got .*2 by 3"):
            opened.infer({"a": rows(2), "b": rows(3)})
        np.testing.assert_array_equal(opened.infer({"a": rows(2), "b": rows(2)})["sum"], 2 * rows(2))
    assert capfd.readouterr().err == ""


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MachineError, match=r"no CUDA here \(got CPUExecutionProvider\). pip .*onnxruntime-gpu"):
        OnnxRunner(RELU, device="cuda")
    assert OnnxRunner(RELU, device="auto").device == "cpu"


def test_int8_arithmetic_is_exact():
    """Products of 127·127 summed in pairs overflow the 16 bits of the fast kernel on x86 without VNNI."""
    depth = 64
    weights = np.full((depth, 8), 127, np.int8)
    one, zero = np.float32(1), np.int8(0)
    constants = {"one": np.array(one), "zero": np.array(zero), "weights": weights}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weights", "one", "zero"], ["dw"]),
        helper.make_node("MatMul", ["dq", "dw"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", depth])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    with OnnxRunner(model.SerializeToString(), device="cpu") as opened:
        got = opened.infer({"input": np.full((2, depth), 127, np.float32)})["logits"]
    np.testing.assert_array_equal(got, np.full((2, 8), 127 * 127 * depth, np.float32))


def test_an_int8_weight_with_two_readers_loads(net, images, run, ranges):
    """As the heads of a detector share one over all levels; ONNX Runtime's remedy against saturation fails there."""
    first = net.conv("first", "input", (3, 16))
    second = net.conv("second", first, (16, 16))
    third = net.op("Conv", "third", second, "second.weight", "second.bias")
    model = net.model(net.conv("last", third, (16, 16)), ["batch", 16, 16, 16])
    placement = place(model)
    quantized = insert_qdq(model, placement, ranges(model, placement.tensors))
    with OnnxRunner(files.to_bytes(quantized), device="cpu") as opened:
        got = opened.infer({"input": images})["last"]
    want = run(model, images)["last"]
    assert np.abs(got - want).mean() < 0.05 * np.abs(want).mean()


def test_cuda_that_is_listed_but_does_not_start_is_said(exported, monkeypatch):
    """ONNX Runtime drops such a provider in silence; here it offers CUDA and has none."""
    from deploy.runtime import onnxrt

    monkeypatch.setattr(
        onnxrt.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxrt.ort.InferenceSession
    given = []

    def session(source, options, providers, **rest):
        given.extend(providers)
        return real(source, options, providers=["CPUExecutionProvider"], **rest)

    monkeypatch.setattr(onnxrt.ort, "InferenceSession", session)
    with pytest.raises(MachineError, match="CUDA provider does not start here"):
        OnnxRunner(files.to_bytes(exported), device="cuda")
    assert given == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    with OnnxRunner(files.to_bytes(exported)) as runner:
        assert runner.device == "cpu"
        assert runner.execution.startswith("executed on CPU")
