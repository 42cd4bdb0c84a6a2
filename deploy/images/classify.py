"""Logits → labelled predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.errors import CheckFailed, InputError
from deploy.specs import TensorSpec


@dataclass(frozen=True)
class Prediction:
    """One class of an image: its index, its label where the model has labels, its probability from 0 to 1."""

    index: int
    label: str | None
    probability: float


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names by class index: one a line, UTF-8.

    Raises:
        InputError: the file cannot be read, is not text, is empty or has an empty line before its end.
    """
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except OSError as error:
        raise InputError(f"cannot read the labels in {path}", got=(error.strerror or str(error)).lower()) from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the labels in {path}", got=str(error), expected="UTF-8 text") from error
    if "" in labels or not labels:
        got = f"line {labels.index('') + 1} is empty" if labels else "an empty file"
        raise InputError(f"cannot use the labels in {path}", got=got, expected="one label a line")
    return labels


def scores_output(outputs: Sequence[TensorSpec]) -> str:
    """The name of the output that holds the scores: ``logits``, or the only one ``[images, classes]`` of numbers.

    Raises:
        InputError: several could be meant, or none.
    """
    likely = [spec.name for spec in outputs if len(spec.shape) == 2 and spec.dtype.startswith("float")]
    if "logits" in likely:
        return "logits"
    if len(likely) == 1 or len(outputs) == 1:
        return likely[0] if likely else outputs[0].name
    raise InputError(
        "which output holds the scores of the classes?",
        got=", ".join(map(str, outputs)),
        expected="one [images, classes], or one named logits",
    )


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, in double precision.

    Raises:
        CheckFailed: a logit is NaN or infinite.
    """
    _check_finite(logits)
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values


def are_probabilities(scores: npt.NDArray[Any]) -> bool:
    """Whether every row of ``scores[images, classes]`` is non-negative and sums to 1, as a softmax leaves it."""
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=-1, dtype=np.float64), 1, atol=1e-3))


def log_probabilities(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Logits whose softmax is ``scores``."""
    return np.log(np.maximum(scores.astype(np.float64), np.finfo(np.float64).tiny))


def top_k(logits: npt.NDArray[Any], k: int, labels: Sequence[str] | None = None) -> list[list[Prediction]]:
    """The ``k`` most probable classes (all of them if there are fewer) of each row of ``logits[images, classes]``.

    The most probable comes first; of equals, the lower index.

    Raises:
        InputError: ``k`` is below 1, ``logits`` is not a matrix, or ``labels`` are not one for each class.
        CheckFailed: a logit is NaN or infinite.
    """
    _check_arguments(logits, k, labels)
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(softmax(logits), order, axis=1)
    return [
        [Prediction(int(i), labels[i] if labels else None, float(p)) for i, p in zip(*row, strict=True)]
        for row in zip(order, chosen, strict=True)
    ]


def _check_arguments(logits: npt.NDArray[Any], k: int, labels: Sequence[str] | None) -> None:
    if k < 1:
        raise InputError("top-k counts classes", got=k, expected="1 or more")
    if logits.ndim != 2 or not logits.shape[1]:
        raise InputError("the output is not that of a classifier", got=list(logits.shape), expected="[images, classes]")
    if labels and len(labels) != logits.shape[1]:
        raise InputError("the labels are not this model's", got=f"{len(labels)} labels", expected=logits.shape[1])


def _check_finite(logits: npt.NDArray[Any]) -> None:
    bad = int(logits.size - np.isfinite(logits).sum())
    if bad:
        raise CheckFailed(
            "the model's output is not finite",
            got=f"{bad} of {logits.size} logits are NaN or infinite",
            expected="numbers",
            fix="An FP16 overflow does this: compare with the FP32 model by `python -m deploy verify`.",
        )
