"""The timing cache on simulated modules: what is kept, whose file is left alone, two builds at once."""

import json
import multiprocessing
import time

import pytest
from onnx import helper
from tensorrt_api.graphs import serialise, unsupported
from tensorrt_api.simulator import simulate
from tensorrt_api.tables import APIS

from deploy.engine import timing
from deploy.engine.build import build_engine
from deploy.engine.options import BuildOptions
from deploy.errors import InputError
from deploy.hardware import GpuInfo
from deploy.specs import ShapeProfile

TENSORRT = [api for api in APIS if api.flavour == "tensorrt"]
OLDEST = next(api for api in TENSORRT if api.version.startswith("10.3"))
NEWEST = next(api for api in TENSORRT if api.version.startswith("11.4"))
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    here = GpuInfo("NVIDIA L4", "8.9", 24 << 30, "580.65")
    monkeypatch.setattr("deploy.hardware.devices", lambda: [here])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "timing.cache"


def build(path, *names, api=NEWEST, gpu="NVIDIA L4", onnx=None):
    """Build a chain of Relu nodes of these names."""
    tensors = ["input", *names[:-1], "logits"]
    nodes = [helper.make_node("Relu", [tensors[i]], [tensors[i + 1]], name) for i, name in enumerate(names)]
    graph = onnx or serialise(nodes, {}, ["batch", 10], ["batch", 10])
    flavour = simulate(api, gpu=gpu)
    return build_engine(graph, flavour=flavour, batch=ShapeProfile(1, 4, 8), options=BuildOptions(timing_cache=path))


def held(path):
    header, times = json.loads(path.read_bytes())
    return tuple(header), set(times)


@pytest.mark.parametrize("api", TENSORRT, ids=str)
def test_written_where_it_was_asked_for_and_added_to(path, api):
    build(path, "a", "b", api=api)
    assert held(path) == ((api.version, "NVIDIA L4"), {"a", "b"})
    built = build(path, "b", "c", api=api)
    assert held(path) == ((api.version, "NVIDIA L4"), {"a", "b", "c"})
    assert built.warnings == ("simulated",)
    assert sorted(each.name for each in path.parent.iterdir()) == ["timing.cache", "timing.cache.lock"]


def test_times_that_were_there_stay(path):
    path.write_bytes(json.dumps([[NEWEST.version, "NVIDIA L4"], {"a": 7}]).encode())
    build(path, "a", "b")
    assert json.loads(path.read_bytes())[1] == {"a": 7, "b": 1}


@pytest.mark.parametrize(
    ("other", "its_gpu"), [(OLDEST, "NVIDIA L4"), (NEWEST, "NVIDIA T4")], ids=["another version", "another GPU"]
)
def test_a_file_of_another_version_or_gpu_stays_as_it_is(path, other, its_gpu):
    build(path, "a", api=other, gpu=its_gpu)
    before = path.read_bytes()
    built = build(path, "b")
    own = path.with_name(f"timing.{NEWEST.version}-NVIDIA-L4-8.9.cache")
    assert path.read_bytes() == before
    assert held(own) == ((NEWEST.version, "NVIDIA L4"), {"b"})
    assert built.warnings[0] == (
        f"the timing cache {path} is of another TensorRT or GPU, or damaged: it stays as it is, "
        f"and kernel times go to {own}"
    )
    assert build(path, "c").warnings == ("simulated",), "said once"
    assert held(own)[1] == {"b", "c"}
    assert path.read_bytes() == before


def test_damaged_files(path):
    path.write_bytes(b"garbage")
    own = path.with_name(f"timing.{NEWEST.version}-NVIDIA-L4-8.9.cache")
    own.write_bytes(b"rubbish")
    built = build(path, "a")
    assert built.warnings[1] == f"the timing cache {own} is damaged: it is made anew"
    assert path.read_bytes() == b"garbage", "it may be of a TensorRT that this one cannot read"
    assert held(own)[1] == {"a"}


def test_a_failed_build_leaves_the_file_alone(path):
    build(path, "a")
    before = path.read_bytes()
    with pytest.raises(InputError):
        build(path, onnx=unsupported())
    assert path.read_bytes() == before


def test_another_key_that_came_meanwhile(path, monkeypatch):
    """Two versions begin with no file: the second to end finds the first one's."""
    load = timing.load_timing_cache

    def meanwhile(*arguments):
        load(*arguments)
        monkeypatch.setattr("deploy.engine.build.load_timing_cache", load)
        path.write_bytes(json.dumps([[OLDEST.version, "NVIDIA L4"], {"z": 1}]).encode())

    monkeypatch.setattr("deploy.engine.build.load_timing_cache", meanwhile)
    build(path, "a")
    assert held(path) == ((OLDEST.version, "NVIDIA L4"), {"z"})
    assert held(timing.keyed_path(path, simulate(NEWEST)))[1] == {"a"}


def test_a_file_that_cannot_be_written_costs_no_plan(path, monkeypatch):
    def full(place, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(timing, "write_bytes", full)
    built = build(path, "a")
    assert built.plan
    assert built.warnings[-1].startswith(f"the timing cache {path} was not written: [Errno 28]")


def test_rtx_has_none(path):
    with pytest.raises(InputError, match="TensorRT-RTX has no timing cache"):
        build(path, "a", api=RTX)


def slowly(path, name, barrier):
    """In a process of its own: all begin without a file, and none ends before all have measured."""
    real = timing.write_bytes

    def write(place, data):
        time.sleep(0.2)  # without a lock all have read the file by now
        real(place, data)

    save = timing.save_timing_cache

    def together(*arguments):
        barrier.wait(60)
        save(*arguments)

    timing.write_bytes = write
    import deploy.engine.build as engine

    engine.save_timing_cache = together
    build(path, name)


def test_builds_that_end_at_once_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=slowly, args=(path, name, barrier)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert held(path)[1] == {"a", "b", "c"}
