from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.manifest import (
    SCHEMA,
    EngineInfo,
    Manifest,
    Weights,
    plan_manifest_path,
    read_plan_manifest,
    write_plan_manifest,
)
from deploy.specs import NmsSettings, Precision, Preprocessing, ShapeProfile, TensorSpec

FULL = Manifest(
    model="net",
    precision=Precision.INT8,
    inputs=(TensorSpec("input", "float32", ("batch", 3, 8, 8)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    weights=Weights("file", "net.pt", "ab" * 32),
    preprocessing=Preprocessing(9, (8, 8)),
    labels=("cat", "dog"),
    parameters=10,
    macs=20,
    tools={"onnx": "1.23"},
    parity=({"sqnr_db": 30.5, "top1": None},),
    quantization={"method": "max"},
    engine=EngineInfo(
        "tensorrt", "10.3", ShapeProfile(1, 2, 4), "net.onnx", "cd" * 32, "ef" * 32, options={"tf32": True}
    ),
    nms=NmsSettings(0.4, 0.5, 100),
)
KEYS = sorted(FULL.to_dict())
KEYS.remove("preprocessing_sha256")  # written for readers, never read back
OPTIONAL = ("task", "parameters", "macs", "tools", "quantization", "nms")

text = st.text(max_size=8)
number = st.none() | st.integers(0, 2**40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
facts = st.dictionaries(text, st.integers() | text | st.lists(st.floats(allow_nan=False)) | st.none(), max_size=3)
dims = st.lists(st.integers(0, 4096) | text, max_size=4).map(tuple)
tensors = st.lists(st.builds(TensorSpec, text, st.sampled_from(["float32", "int64"]), dims), max_size=3).map(tuple)
side = st.integers(1, 1024)
shares = st.tuples(*[st.floats(0.01, 2)] * 3)
kinds = st.sampled_from(["bilinear", "bicubic"])
profiles = st.lists(st.integers(1, 64), min_size=3, max_size=3).map(lambda sizes: ShapeProfile(*sorted(sizes)))
manifests = st.builds(
    Manifest,
    model=text,
    precision=st.sampled_from(Precision),
    inputs=tensors,
    outputs=tensors,
    task=text,
    weights=st.builds(Weights, text, st.none() | text, st.none() | text),
    preprocessing=st.none() | st.builds(Preprocessing, side, st.tuples(side, side), kinds, shares, shares),
    labels=st.none() | st.lists(text, max_size=4).map(tuple),
    parameters=number,
    macs=number,
    tools=st.dictionaries(text, text, max_size=3),
    parity=st.lists(facts, max_size=2).map(tuple),
    quantization=st.none() | facts,
    engine=st.none()
    | st.builds(EngineInfo, text, text, profiles, text, text, text, *[st.none() | text] * 3, options=facts),
    nms=st.none() | st.builds(NmsSettings, st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000)),
)


def changed(**fields):
    return json.dumps({**FULL.to_dict(), **fields})


@given(manifests)
def test_every_field_survives(manifest):
    assert Manifest.from_json(manifest.to_json(), "net.onnx") == manifest
    assert Manifest.from_json(manifest.to_json(indent=2), "net.onnx") == manifest


def test_the_example_leaves_no_field_at_its_default():
    """So that the tests below see every field."""
    left = {f.name for f in dataclasses.fields(Manifest) if getattr(FULL, f.name) == f.default}
    assert left == {"task", "schema"}


def test_json_tells_the_hash_of_the_preprocessing():
    assert FULL.to_dict()["preprocessing_sha256"] == FULL.preprocessing.digest()
    assert FULL.evolve(preprocessing=None).to_dict()["preprocessing_sha256"] is None


def test_evolving_changes_a_copy():
    assert FULL.evolve(model="other").model == "other"
    assert FULL.model == "net"


@pytest.mark.parametrize("source", ["official", "file", "unknown"])
def test_only_random_weights_warn(source):
    assert Weights(source).warning is None
    assert "RANDOM" in Weights("random").warning


@pytest.mark.parametrize("where", [[], ["weights"], ["engine"], ["nms"], ["preprocessing"], ["inputs", 0]])
def test_what_a_later_version_adds_is_ignored(where):
    fields = FULL.to_dict()
    inner = json.loads(json.dumps(fields))
    target = inner
    for key in where:
        target = target[key]
    target["added_later"] = {"any": "thing"}
    assert Manifest.from_json(json.dumps(inner), "net.onnx") == FULL


@pytest.mark.parametrize("key", sorted(set(KEYS) - set(OPTIONAL)))
def test_a_missing_key_is_named(key):
    fields = FULL.to_dict()
    del fields[key]
    with pytest.raises(InputError, match=rf"the manifest of net.onnx (is damaged|cannot be read).*{key}"):
        Manifest.from_json(json.dumps(fields), "net.onnx")


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_may_be_missing_has_its_default(key):
    fields = FULL.to_dict()
    del fields[key]
    defaults = Manifest("net", Precision.FP32, (), ())
    assert Manifest.from_json(json.dumps(fields), "net.onnx") == FULL.evolve(**{key: getattr(defaults, key)})


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1"])
def test_another_schema(schema):
    expected = (
        rf"the manifest of net.onnx has another schema \(got {schema}; expected {SCHEMA}\). Export the model again"
    )
    with pytest.raises(InputError, match=expected):
        Manifest.from_json(changed(schema=schema), "net.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"', "{}", FULL.to_json()[:-20], b"\xff\xfe\xfa"])
def test_what_is_no_manifest(text):
    with pytest.raises(InputError, match="the manifest of net.onnx cannot be read"):
        Manifest.from_json(text, "net.onnx")


@pytest.mark.parametrize(
    "damage",
    [
        {"precision": "int4"},
        {"inputs": [{"name": "input"}]},
        {"outputs": 5},
        {"weights": None},
        {"labels": 5},
        {"engine": "tensorrt"},
        {"nms": {"iou_threshold": 45}},
        {"engine": {"flavour": "tensorrt"}},
        {"engine": {**FULL.to_dict()["engine"], "batch": {"min": 4, "opt": 2, "max": 1}}},
        {"preprocessing": {**FULL.to_dict()["preprocessing"], "interpolation": "nearest"}},
        {"preprocessing": {**FULL.to_dict()["preprocessing"], "crop": [8]}},
        {"preprocessing": {**FULL.to_dict()["preprocessing"], "resize": float("inf")}},
    ],
)
def test_damage_names_the_file(damage):
    with pytest.raises(InputError, match="the manifest of net.onnx is damaged"):
        Manifest.from_json(changed(**damage), "net.onnx")


@settings(max_examples=200)
@given(st.sampled_from(KEYS), values)
def test_no_damage_is_a_traceback(key, value):
    with contextlib.suppress(InputError):
        assert isinstance(Manifest.from_json(changed(**{key: value}), "net.onnx"), Manifest)


def test_a_plan_has_its_manifest_beside_it(tmp_path):
    plan = tmp_path / "net.int8.plan"
    plan.write_bytes(b"plan")
    assert read_plan_manifest(plan) is None
    write_plan_manifest(plan, FULL)
    assert read_plan_manifest(plan) == FULL
    assert plan.read_bytes() == b"plan"
    assert {path.name for path in tmp_path.iterdir()} == {"net.int8.plan", "net.int8.plan.json"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"{}"])
def test_a_damaged_plan_manifest_names_its_file(tmp_path, content):
    plan = tmp_path / "net.int8.plan"
    plan_manifest_path(plan).write_bytes(content)
    with pytest.raises(InputError, match=r"the manifest of .*net.int8.plan.json cannot be read"):
        read_plan_manifest(plan)
