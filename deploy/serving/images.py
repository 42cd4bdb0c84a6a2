"""Encoded images (JPEG, PNG, …) → a model's input, and its outputs → classes or boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.images.classify import are_probabilities, log_probabilities, scores_output, top_k
from deploy.images.decode import decode
from deploy.images.default import default_preprocessing
from deploy.images.detect import BOXES, DETECTIONS, SCORES, detect
from deploy.images.fit import Fit, fit
from deploy.images.layout import as_input
from deploy.images.preprocess import preprocess
from deploy.runtime.base import Array, Runner
from deploy.specs import NmsSettings, Preprocessing

TOP_K = 5


def preprocessing_of(runner: Runner) -> Preprocessing:
    """What the model says of itself, else ImageNet's usual.

    Raises:
        InputError: it does not take images.
    """
    own = runner.manifest.preprocessing if runner.manifest else None
    try:
        return own or default_preprocessing(runner.inputs)
    except InputError as error:  # its words are for the commands, which can be told more
        raise InputError("images cannot be prepared for this model", got=error.got, expected=error.expected) from error


def prepare(runner: Runner, files: Sequence[bytes], max_pixels: int) -> tuple[dict[str, Array], list[Fit]]:
    """The input for encoded ``files``, one row each, and where each image lies in it. Slow: for a worker thread.

    Raises:
        InputError: no image, one of more than ``max_pixels``, or the model does not take images.
    """
    preprocessing, spec = preprocessing_of(runner), runner.inputs[0]
    images = [decode(file, max_pixels) for file in files]
    batch = np.stack([preprocess(image, preprocessing) for image in images])
    fits = [fit((image.shape[0], image.shape[1]), preprocessing) for image in images]
    return {spec.name: as_input(batch, spec)}, fits


def answers(runner: Runner, outputs: Mapping[str, Array], fits: Sequence[Fit], count: int) -> list[dict[str, Any]]:
    """For each image ``{"predictions": […]}``, the ``count`` most probable, or ``{"detections": […]}``."""
    manifest, names = runner.manifest, {spec.name for spec in runner.outputs}
    labels = manifest.labels if manifest else None
    if (manifest.task == "detection") if manifest else names in ({BOXES, SCORES}, {DETECTIONS}):
        settings = (manifest.nms if manifest else None) or NmsSettings()
        found = detect(outputs, fits, settings, labels)
        return [{"detections": [{**asdict(one), "box": list(one.box)} for one in image]} for image in found]
    scores = outputs[scores_output(runner.outputs)]
    if scores.ndim != 2:
        raise InputError("the model's outputs are neither classes nor boxes")
    if manifest is None and are_probabilities(scores):
        scores = log_probabilities(scores)  # others' graphs may end in a softmax: a second one would flatten it
    return [{"predictions": [asdict(one) for one in image]} for image in top_k(scores, count, labels)]
