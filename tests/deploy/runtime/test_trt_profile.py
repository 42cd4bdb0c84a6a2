"""Times of engines, on simulated modules of every version."""

import gc

import pytest
from tensorrt_api.cuda import LIVE, SimulatedClock, SimulatedCuda
from tensorrt_api.graphs import network
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine.build import build_engine
from deploy.engine.layers import layer_nodes
from deploy.errors import MachineError
from deploy.runtime import trt_profile
from deploy.runtime.trt_profile import TimedRunner
from deploy.specs import ShapeProfile

NEWEST = next(api for api in APIS if api.version.startswith("11.4"))


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    monkeypatch.setattr(trt_profile, "WARM_UP", 0.02)
    monkeypatch.setattr(trt_profile, "time", SimulatedClock)
    monkeypatch.setattr(trt_profile, "RUNS", 3)
    yield
    gc.collect()
    assert LIVE == {}


def cost(nodes, int8):
    """Of the network: 5 ms in a convolution of FP16, 2 in one of INT8, 1 in any other layer."""
    return (2.0 if int8 else 5.0) if "/conv" in nodes else 1.0


def opened(precision, api=NEWEST, cost=cost):
    flavour = simulate(api, cost)
    plan = build_engine(network(precision), flavour=flavour, batch=ShapeProfile(1, 4, 8)).plan
    return TimedRunner(plan, flavour, SimulatedCuda())


@pytest.mark.parametrize("api", APIS, ids=str)
def test_layers_by_their_nodes_in_every_version(api):
    with opened("fp16", api) as half, opened("int8", api) as int8:
        assert half.layer_milliseconds() == {
            frozenset({"/cast_in"}): 1,
            frozenset({"/conv", "/relu"}): 5,
            frozenset({"/pool"}): 1,
            frozenset({"/flat"}): 1,
            frozenset({"/fc"}): 1,
            frozenset({"/cast_out"}): 1,
        }
        times = int8.layer_milliseconds()
    assert times[frozenset({"/dq", "/conv", "/relu"})] == 2
    assert times[frozenset({"/cast_in", "/q"})] == 1


def test_the_whole_engine_by_the_clock():
    with opened("fp16") as half, opened("int8") as int8:
        assert half.milliseconds() == pytest.approx(10)
        assert int8.milliseconds() == pytest.approx(7)


def test_slow_runs_at_first_do_not_count():
    """Warming up takes 20 ms: two runs of 15. Of the three that count, one that is slow does not matter."""
    spent = iter([15, 15, 1, 90, 2])
    with opened("fp16", cost=lambda nodes, int8: next(spent) if "/fc" in nodes else 0) as half:
        assert half.milliseconds() == pytest.approx(2)
    assert list(spent) == []


def test_the_usual_batch_is_what_is_timed():
    with opened("fp16") as half:
        half.milliseconds()
        assert half._lanes[0].context(0)._shapes == {"input": (4, 3, 16, 16)}


def test_layers_that_compute_the_same_nodes_are_added_up(monkeypatch):
    monkeypatch.setattr(trt_profile, "layer_nodes", lambda text: dict.fromkeys(layer_nodes(text), frozenset({"all"})))
    with opened("fp16") as half:
        assert half.layer_milliseconds() == {frozenset({"all"}): 10}


def test_each_call_profiles_anew():
    spent = [1.0]
    with opened("fp32", cost=lambda nodes, int8: spent[0]) as runner:
        assert set(runner.layer_milliseconds().values()) == {1.0}
        spent[0] = 2.0
        assert set(runner.layer_milliseconds().values()) == {2.0}


def test_a_run_that_is_refused_carries_the_engines_words(monkeypatch):
    with opened("fp16") as half:
        refuse = half._engine.trt.IExecutionContext
        monkeypatch.setattr(refuse, "execute_async_v3", lambda self, handle: self._log("ERROR", "no kernel image"))
        with pytest.raises(MachineError, match=r"the engine failed to run \(got no kernel image\)"):
            half.milliseconds()


def test_a_shape_that_is_refused():
    with opened("fp16") as half:
        half._engine.cuda_engine._profiles[0]["input"] = [[2, 3, 16, 16]] * 3
        with pytest.raises(MachineError, match="Static dimension mismatch"):
            half.layer_milliseconds()


def test_a_plan_without_detailed_names_tells_of_no_layer(monkeypatch):
    monkeypatch.setattr("deploy.engine.build.configure", lambda config, flavour, options: None)
    with opened("fp16") as half:
        assert half.layer_milliseconds() == {}
