"""Accuracy of one artefact on labelled images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.data.labelled import LabelledImages
from deploy.data.loading import tell_once
from deploy.errors import CheckFailed, InputError
from deploy.images.classify import scores_output
from deploy.images.default import default_preprocessing
from deploy.parity.paired import PairedDifference, paired_difference
from deploy.runtime.base import Array
from deploy.runtime.rows import infer_rows
from deploy.specs import NetworkOptions, Precision
from deploy.workflows.subjects import Subject, open_subject

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """Shares from 0 to 1.

    Attributes:
        interval: the 95 % confidence interval of ``top1`` (Wilson score).
        right: whether the most probable class of each image is its own, bool ``[images]``.
    """

    name: str
    precision: Precision
    execution: str
    images: int
    top1: float
    top5: float
    interval: tuple[float, float]
    images_per_second: float
    right: Array = field(compare=False, repr=False)

    def against(self, first: Accuracy) -> PairedDifference | None:
        """What this loses against ``first``, image by image; None where they were not shown the same images."""
        return paired_difference(first.right, self.right) if first.images == self.images else None

    def to_dict(self) -> dict[str, Any]:
        figures = {name: value for name, value in vars(self).items() if name != "right"}
        return {**figures, "precision": str(self.precision)}


def evaluate(
    what: str,
    data: Path,
    batch_size: int,
    device: str,
    network: NetworkOptions,
    warn: Callable[[str], None],
    progress: Progress,
) -> Accuracy:
    """Run ``what`` over ``data/<class>/*``; sorted folders are the classes in order.

    Raises:
        InputError: no such model or data, or there are more folders than classes.
        CheckFailed: an output is NaN or infinite.
    """
    subject = open_subject(what, device, network, warn)
    with subject.runner as runner:
        _check_task(subject)
        images = _labelled(subject, data, network.image_size, warn)
        scores = scores_output(runner.outputs)
        found, seen = list[Array](), 0
        start = time.perf_counter()
        for feeds, labels, _ in images.batches(batch_size):
            found.append(_ranks(infer_rows(runner, feeds)[scores], labels, what))
            seen += len(labels)
            progress(seen, len(images))
        seconds = time.perf_counter() - start
    ranks = np.concatenate(found)
    right = ranks < 1
    return Accuracy(
        name=what,
        precision=subject.precision,
        execution=runner.execution,
        images=seen,
        top1=float(right.mean()),
        top5=float((ranks < 5).mean()),
        interval=wilson(int(right.sum()), seen),
        images_per_second=seen / seconds,
        right=right,
    )


def _check_task(subject: Subject) -> None:
    manifest = subject.runner.manifest
    if manifest is not None and manifest.task == "detection":
        raise InputError(
            f"{subject.name} is a detector: top-1 accuracy is that of a classifier, and there is no mAP here",
            fix="Compare it with its FP32 graph: python -m deploy verify REFERENCE OTHER --data DIR.",
        )


def _labelled(
    subject: Subject, data: Path, image_size: tuple[int, int] | None, warn: Callable[[str], None]
) -> LabelledImages:
    preprocessing = subject.preprocessing or default_preprocessing(subject.runner.inputs, image_size)
    images = LabelledImages(data, preprocessing, subject.runner.inputs[0], on_error=tell_once(warn))
    outputs = {spec.name: spec for spec in subject.runner.outputs}
    manifest = subject.runner.manifest
    classes = outputs[scores_output(subject.runner.outputs)].shape[-1]
    images.match(subject.name, manifest.labels if manifest else None, classes)
    return images


def _ranks(logits: Array, labels: Array, what: str) -> Array:
    """How many classes lie above the right one, for each row; of equals the lower index is above."""
    if not np.isfinite(logits).all():
        raise CheckFailed(f"the output of {what} is not finite", got="NaN or infinity", expected="numbers")
    order = np.argsort(-logits, axis=1, kind="stable")
    return np.asarray((order == labels[:, None]).argmax(axis=1))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (E. B. Wilson, 1927); it stays inside 0 to 1."""
    z = 1.959964
    share, squared = successes / trials, z**2 / trials
    centre = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials)) / (1 + squared)
    return max(0.0, centre - half), min(1.0, centre + half)
