from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.specs import Precision, Preprocessing, ShapeProfile, TensorSpec, batch_of, follows_batch

IMAGE = TensorSpec("input", "float32", ("batch", 3, 8, 8))
HOW = Preprocessing(256, (224, 192))


@pytest.mark.parametrize("precision", Precision)
def test_a_precision_is_its_name(precision):
    assert str(precision) == f"{precision}" == precision.value == precision.name.lower()
    assert json.dumps(precision) == f'"{precision}"'


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_named_axis_takes_any_size(rows):
    IMAGE.check(np.zeros((rows, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("shape", "dtype", "got"),
    [
        ((1, 4, 8, 8), "float32", r"float32\[1, 4, 8, 8\]"),
        ((3, 8, 8), "float32", r"float32\[3, 8, 8\]"),
        ((1, 3, 8, 8, 1), "float32", r"float32\[1, 3, 8, 8, 1\]"),
        ((), "float32", r"float32\[\]"),
        ((1, 3, 8, 8), "float64", r"float64\[1, 3, 8, 8\]"),
        ((1, 3, 8, 8), "uint8", r"uint8\[1, 3, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_named_with_both_shapes(shape, dtype, got):
    with pytest.raises(
        InputError, match=rf"tensor 'input' does not fit.*got {got}; expected float32\[batch, 3, 8, 8\]"
    ):
        IMAGE.check(np.zeros(shape, dtype))


def test_tensors_survive_json():
    assert TensorSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(IMAGE)))) == IMAGE
    assert str(IMAGE) == "input float32[batch, 3, 8, 8]"


@pytest.mark.parametrize(
    ("text", "sizes"), [("1:8:32", (1, 8, 32)), ("8", (8, 8, 8)), ("4:4:4", (4, 4, 4)), (" 1: 2 :3", (1, 2, 3))]
)
def test_batch_profiles(text, sizes):
    profile = ShapeProfile.parse(text)
    assert (profile.min, profile.opt, profile.max) == sizes
    assert ShapeProfile.parse(str(profile)) == profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot read"),
        ("1:2", "cannot read"),
        ("1:2:3:4", "cannot read"),
        ("1:two:3", "cannot read"),
        ("1.5", "cannot read"),
        ("8:4:16", "must not decrease"),
        ("1:8:4", "must not decrease"),
        ("0", "starts at 1"),
        ("-1:1:1", "starts at 1"),
    ],
)
def test_bad_batch_profiles(text, said):
    with pytest.raises(InputError, match=f"{said}.*got {text or ';'}.*MIN:OPT:MAX"):
        ShapeProfile.parse(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interpolation": "nearest"}, "unknown interpolation"),
        ({"resize": 0}, "in pixels"),
        ({"crop": (0, 8)}, "in pixels"),
        ({"crop": (8, -1)}, "in pixels"),
        ({"std": (0.2, 0.0, 0.2)}, "divides by std"),
        ({"std": (0.2, float("nan"), 0.2)}, "divides by std"),
    ],
)
def test_impossible_preprocessing(change, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(HOW, **change)


numbers = st.floats(-10, 10)
positive = st.floats(1e-3, 10)
sizes = st.integers(1, 4096)
preprocessings = st.builds(
    Preprocessing,
    sizes,
    st.tuples(sizes, sizes),
    st.sampled_from(["bilinear", "bicubic"]),
    st.tuples(numbers, numbers, numbers),
    st.tuples(positive, positive, positive),
)


@given(preprocessings)
def test_preprocessing_survives_json_with_its_digest(how):
    read = Preprocessing.from_dict(json.loads(json.dumps(how.to_dict())))
    assert read == how
    assert read.digest() == how.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 255},
        {"crop": (192, 224)},
        {"interpolation": "bicubic"},
        {"mean": (0.5, 0.456, 0.406)},
        {"std": (0.229, 0.224, 0.5)},
    ],
)
def test_every_field_counts_in_the_digest(change):
    assert dataclasses.replace(HOW, **change).digest() != HOW.digest()


def test_the_digest_is_of_this_text():
    """Digests are stored in artefacts: a change of the text would make every one of them strange."""
    text = '{"crop":[224,192],"interpolation":"bilinear","mean":[0.485,0.456,0.406],'
    text += '"mode":"crop","resize":256,"std":[0.229,0.224,0.225]}'
    assert HOW.digest() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("shapes", "batch", "following"),
    [
        ([("N", 3, 8, 8)], "N", [True]),
        ([(), ("N", 3), ("M",), (5, 7)], "N", [False, True, True, False]),
        ([(3,), (1, 3, 8, 8), (1, 77)], 1, [False, True, True]),
        ([(7,)], None, [False]),
        ([()], None, [False]),
        ([], None, []),
    ],
)
def test_which_inputs_follow_the_batch(shapes, batch, following):
    specs = [TensorSpec("x", "float32", shape) for shape in shapes]
    assert batch_of(specs) == batch
    assert [follows_batch(spec, batch) for spec in specs] == following
