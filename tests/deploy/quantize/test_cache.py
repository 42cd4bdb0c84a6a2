from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deploy.errors import InputError
from deploy.quantize.cache import SCHEMA, CalibrationCache, load, save, why_not_reusable

CACHE = CalibrationCache(
    {"input": 2.5, "wide": 0.1},
    "mse",
    500,
    "a" * 64,
    "b" * 64,
    "c" * 64,
    keep_fp32={"wide_node": "why"},
    convergence={"16": 0.7},
    peak={"wide": 0.25},
)
EQUALIZED = replace(CACHE, equalization="AAE=")
REQUEST = {
    "graph_sha256": "a" * 64,
    "preprocessing_sha256": "c" * 64,
    "method": "mse",
    "tensors": ["input", "wide"],
    "data_sha256": "b" * 64,
    "images": 500,
}


@pytest.mark.parametrize("cache", [CACHE, EQUALIZED, replace(CACHE, preprocessing_sha256=None)])
def test_what_is_saved_is_loaded(tmp_path, cache):
    path = tmp_path / "net.int8.calib.json"
    save(path, cache)
    assert load(path) == cache
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fields: "{", "cannot be read"),
        (lambda fields: "[]", "schema None; expected schema 2"),
        (lambda fields: json.dumps({**fields, "schema": SCHEMA + 1}), "got schema 3; expected schema 2"),
        (lambda fields: json.dumps({**fields, "amax": {"wide": float("nan")}}), "range of 'wide' is nan"),
        (lambda fields: json.dumps({**fields, "amax": {"wide": -1}}), "range of 'wide' is -1.0"),
        (lambda fields: json.dumps({**fields, "amax": [1]}), "cannot be read"),
        (lambda fields: json.dumps({**fields, "peak": {"wide": float("inf")}}), "range of 'wide' is inf"),
        (lambda fields: json.dumps({**fields, "method": 3}), "3 is not a text"),
        (lambda fields: json.dumps({k: v for k, v in fields.items() if k != "images"}), "KeyError('images')"),
    ],
)
def test_damaged_caches_say_so(tmp_path, change, text):
    path = tmp_path / "net.int8.calib.json"
    save(path, CACHE)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError) as caught:
        load(path)
    assert text in str(caught.value)
    assert "Delete it and calibrate again" in str(caught.value)


def test_a_missing_cache(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "nothing.json")


def test_a_matching_cache_is_reusable():
    assert why_not_reusable(CACHE, **REQUEST) is None
    assert why_not_reusable(CACHE, **{**REQUEST, "data_sha256": None, "images": None, "tensors": ["wide"]}) is None


def test_an_equalized_graph_has_other_ranges():
    assert why_not_reusable(EQUALIZED, **REQUEST, equalized=True) is None
    assert why_not_reusable(EQUALIZED, **REQUEST) == "it was made with equalization"
    assert why_not_reusable(CACHE, **REQUEST, equalized=True) == "it was made without equalization"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("graph_sha256", "d", "it was made with another graph"),
        ("preprocessing_sha256", None, "images were prepared in another way"),
        ("method", "max", "it was made with method mse, not max"),
        ("data_sha256", "d", "it was made with other images"),
        ("images", 10, "it was made with 500 images, not 10"),
        ("tensors", ["wide", "deep"], "it has no range for tensor 'deep'"),
    ],
)
def test_each_difference_has_its_reason(field, value, reason):
    assert why_not_reusable(CACHE, **{**REQUEST, field: value}) == reason
