"""The TensorRT runner's own code, on simulated modules of every version; the numbers are ONNX Runtime's."""

import gc
import threading
import weakref

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tensorrt_api.cuda import LIVE, MEMORY, SimulatedCuda, SimulatedStream
from tensorrt_api.graphs import network, serialise
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.errors import InputError, MachineError
from deploy.runtime.trt import TrtRunner
from deploy.specs import ShapeProfile, TensorSpec

NEWEST = next(api for api in APIS if api.version.startswith("11.4"))


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert LIVE == {}


def runner(onnx, profile, api=NEWEST):
    flavour = simulate(api)
    plan = build_engine(onnx, flavour=flavour, batch=profile).plan
    return TrtRunner(plan, flavour, SimulatedCuda())


def images(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 3, 16, 16)).astype(np.float32)


def reference(onnx, batch):
    session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": batch})[0]


@pytest.mark.parametrize("api", APIS, ids=str)
def test_every_version_computes_what_onnx_runtime_does(api):
    with runner(network(), ShapeProfile(1, 4, 8), api) as opened:
        assert opened.backend == api.flavour
        assert opened.execution.startswith("executed on a simulated GPU (TensorRT")
        assert opened.inputs == (TensorSpec("input", "float32", ("batch", 3, 16, 16)),)
        assert opened.outputs == (TensorSpec("logits", "float32", ("batch", 10)),)
        got = opened.infer({"input": images(5)})["logits"]
    np.testing.assert_allclose(got, reference(network(), images(5)), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9, 19])
def test_any_batch_in_pieces_or_filled_up(rows):
    """The profile 4:6:8 takes 19 rows as 8, 8 and 3, the last filled up to 4."""
    with runner(network(), ShapeProfile(4, 6, 8)) as opened:
        got = opened.infer({"input": images(rows)})["logits"]
    np.testing.assert_allclose(got, reference(network(), images(rows)), rtol=1e-5)


def test_results_belong_to_the_caller():
    with runner(network(), ShapeProfile(1, 4, 8)) as opened:
        first = opened.infer({"input": images(2)})["logits"]
        kept = first.copy()
        opened.infer({"input": images(2, seed=1)})
    np.testing.assert_array_equal(first, kept)


def test_input_need_not_be_contiguous():
    batch = images(4).transpose(0, 1, 3, 2)
    with runner(network(), ShapeProfile(1, 4, 8)) as opened:
        got = opened.infer({"input": batch})["logits"]
    np.testing.assert_allclose(got, reference(network(), np.ascontiguousarray(batch)), rtol=1e-5)


def test_threads_take_turns():
    results = {}
    with runner(network(), ShapeProfile(1, 4, 8)) as opened:

        def work(seed):
            for _ in range(5):
                results[seed] = opened.infer({"input": images(3, seed)})["logits"]

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for seed in range(4):
        np.testing.assert_allclose(results[seed], reference(network(), images(3, seed)), rtol=1e-5)


def test_fixed_batch_is_exact():
    with runner(network(batch=4), ShapeProfile(1, 4, 8)) as opened:
        assert opened.inputs[0].shape == (4, 3, 16, 16)
        got = opened.infer({"input": images(4)})["logits"]
        with pytest.raises(InputError, match="does not fit the model"):
            opened.infer({"input": images(3)})
    np.testing.assert_allclose(got, reference(network(batch=4), images(4)), rtol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"image": images(1)}, "other names"),
        ({"input": images(1).astype(np.float64)}, "does not fit"),
        ({"input": images(1)[:, :2]}, "does not fit"),
        ({"input": images(1)[:0]}, "the batch is empty"),
    ],
)
def test_wrong_feeds(feeds, said):
    with runner(network(), ShapeProfile(1, 4, 8)) as opened, pytest.raises(InputError, match=said):
        opened.infer(feeds)


def test_closing_twice_is_fine_and_use_after_it_is_not():
    opened = runner(network(), ShapeProfile(1, 4, 8))
    engine = weakref.ref(opened._engine.cuda_engine)
    for _ in range(4):
        opened.infer({"input": images(1)})
    opened.close()
    opened.close()
    gc.collect()
    assert engine() is None
    assert LIVE == {}
    with pytest.raises(RuntimeError, match="closed"):
        opened.infer({"input": images(1)})


def test_filling_repeats_the_last_row():
    """Rubbish in its place could be slow (denormal) or overflow, and would differ from call to call."""
    with runner(network(), ShapeProfile(4, 6, 8)) as opened:
        opened.infer({"input": images(2)})
        (sent,) = [
            memory for memory in MEMORY.values() if memory.nbytes == 8 * 3 * 16 * 16 * 4 and memory.content[0] != 0xAA
        ]
        rows = sent.content.view(np.float32).reshape(8, 3, 16, 16)
        np.testing.assert_array_equal(rows[:4], images(2)[[0, 1, 1, 1]])


def test_closing_after_an_interrupted_call_waits_for_its_copies(monkeypatch):
    opened = runner(network(), ShapeProfile(1, 4, 8))

    def interrupted(stream):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedStream, "synchronize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened.infer({"input": images(1)})
    opened.close()


def test_a_request_after_an_interrupted_call(monkeypatch):
    def interrupted(stream):
        raise KeyboardInterrupt

    with runner(network(), ShapeProfile(1, 4, 8)) as opened:
        for rows in (8, 3, 5, 8):
            with monkeypatch.context() as patch:
                patch.setattr(SimulatedStream, "synchronize", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    opened.infer({"input": images(rows)})
            got = opened.infer({"input": images(3, seed=rows)})["logits"]
            np.testing.assert_allclose(got, reference(network(), images(3, seed=rows)), rtol=1e-5)


def test_damaged_plan_frees_everything():
    flavour = simulate(NEWEST)
    plan = build_engine(network(), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    with pytest.raises(MachineError, match=r"cannot load this plan.*plan.header.size == blobSize"):
        TrtRunner(plan[:-1], flavour, SimulatedCuda())


def test_types_that_numpy_lacks_are_refused():
    cast = helper.make_node("Cast", ["input"], ["logits"], to=TensorProto.FLOAT)
    graph = serialise([cast], {}, ["batch", 4], ["batch", 4], dtype=TensorProto.BFLOAT16)
    with pytest.raises(InputError, match=r"tensor 'input' has a type that numpy lacks \(got BF16"):
        runner(graph, ShapeProfile(1, 4, 8))


def test_failed_run_carries_the_engines_words():
    with runner(network(), ShapeProfile(1, 4, 8)) as opened:
        opened._engine.cuda_engine._profiles[0]["input"] = [[2, 3, 16, 16]] * 3
        with pytest.raises(MachineError, match=r"failed to run.*Static dimension mismatch"):
            opened.infer({"input": images(1)})


def test_an_output_of_the_whole_batch_takes_no_request_that_is_cut_or_filled_up():
    mean = helper.make_node("ReduceMean", ["input"], ["logits"], keepdims=0)
    with runner(serialise([mean], {}, ["batch", 4], []), ShapeProfile(2, 4, 8)) as opened:
        values = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
        np.testing.assert_allclose(opened.infer({"input": values[:8]})["logits"], values[:8].mean(), rtol=1e-5)
        for rows in (1, 9):
            with pytest.raises(InputError, match=rf"'logits' does not follow the batch \(got {rows}; expected 2 to 8"):
                opened.infer({"input": values[:rows]})
