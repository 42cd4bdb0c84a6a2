"""Softmax and top-k are compared with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.errors import CheckFailed, InputError
from deploy.images.classify import Prediction, read_labels, softmax, top_k


@pytest.mark.parametrize("scale", [1e-9, 1.0, 50.0, 1e4])
def test_softmax_equals_torch(scale: float) -> None:
    logits = np.random.default_rng(0).normal(0, scale, (5, 100)).astype(np.float32)
    expected = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12, atol=0)


def test_softmax_of_the_largest_floats() -> None:
    logits = np.array([[3e38, 3e38, -3e38]], np.float32)
    np.testing.assert_array_equal(softmax(logits), [[0.5, 0.5, 0.0]])


def test_top_k_equals_torch() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (8, 1000)).astype(np.float32)
    values, indices = torch.softmax(torch.from_numpy(logits).double(), dim=1).topk(5)
    found = top_k(logits, 5)
    assert [[p.index for p in row] for row in found] == indices.tolist()
    np.testing.assert_allclose([[p.probability for p in row] for row in found], values.numpy(), rtol=1e-12)


def test_top_k_names_the_classes() -> None:
    (row,) = top_k(np.log(np.array([[1.0, 3.0]])), 2, ["cat", "dog"])
    assert [(p.index, p.label) for p in row] == [(1, "dog"), (0, "cat")]
    assert [p.probability for p in row] == pytest.approx([0.75, 0.25])


def test_equals_come_in_the_order_of_their_index() -> None:
    logits = np.random.default_rng(2).integers(0, 3, (1, 1000)).astype(np.float32)
    (row,) = top_k(logits, 1000)
    assert [p.index for p in row] == sorted(range(1000), key=lambda i: -logits[0, i])


def test_equal_logits_have_equal_probabilities() -> None:
    assert top_k(np.zeros((1, 4), np.float32), 2) == [[Prediction(0, None, 0.25), Prediction(1, None, 0.25)]]


def test_k_above_the_number_of_classes_gives_all() -> None:
    assert [len(row) for row in top_k(np.zeros((2, 3)), 10)] == [3, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_label_for_an_output_that_is_not_finite(bad: float) -> None:
    logits = np.zeros((2, 4), np.float16)
    logits[1, 2] = bad
    with pytest.raises(CheckFailed, match=r"not finite \(got 1 of 8 logits are NaN or infinite"):
        top_k(logits, 1)


@pytest.mark.parametrize(
    ("logits", "k", "labels", "message"),
    [
        (np.zeros((1, 4)), 0, None, "got 0; expected 1 or more"),
        (np.zeros((1, 4, 2)), 1, None, r"got \[1, 4, 2\]; expected \[images, classes\]"),
        (np.zeros((1, 0)), 1, None, r"got \[1, 0\]"),
        (np.zeros((1, 4)), 1, ["a", "b"], "got 2 labels; expected 4"),
    ],
)
def test_wrong_arguments(logits: np.ndarray, k: int, labels: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        top_k(logits, k, labels)


def test_read_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\nchäteau fort\r\n\r\n".encode())
    assert read_labels(path) == ("cat", "chäteau fort")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff\xfe\x00", "expected UTF-8"),
        (b"\n", "an empty file"),
        (b"a\n\nb\n", "line 2 is empty"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_labels(path)
