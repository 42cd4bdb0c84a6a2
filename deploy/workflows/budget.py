"""The accuracy budget: how many points may be lost, and the images on which they are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy.data.calibration import CalibrationData
from deploy.data.labelled import LabelledImages
from deploy.data.loading import tell_once
from deploy.data.replay import Batch, Replay
from deploy.errors import InputError
from deploy.images.classify import scores_output
from deploy.runtime.base import Array
from deploy.specs import Precision
from deploy.workflows.request import BuildRequest
from deploy.workflows.source import Source

# So many images are enough to choose on one half and judge on the other.
HOLD_OUT_FROM = 2000
BATCH = 32

# Feeds, with the right classes where they are known.
Images = Replay[Array | None]


@dataclass(frozen=True)
class AccuracyBudget:
    """At most ``points`` of top-1 accuracy lost against the FP32 graph.

    Attributes:
        points: of 100.
        metric: ``top1`` where the right classes are known. Else ``agreement`` with the FP32 graph's top-1, which loses
            at least as much: an image on which both agree cannot be lost.
        scores: the name of the output that holds the classes' scores.
        choosing: the images to search on.
        judging: those that decide: the same object, or others.
        images: in words.
    """

    points: float
    metric: str
    scores: str
    choosing: Images
    judging: Images
    images: str

    @property
    def held_out(self) -> bool:
        """Whether it is judged on images that had no part in the choice."""
        return self.judging is not self.choosing


def check_budget(request: BuildRequest) -> None:
    """Raise :class:`InputError` for options that make no sense together."""
    points = request.max_drop
    if points is None:
        if request.eval_data is not None:
            fix = "Give --max-drop POINTS too, or measure afterwards: python -m deploy eval FILE --data DIR."
            raise InputError("--eval-data is what --max-drop is counted on", got="no --max-drop", fix=fix)
        return
    if not 0 < points < 100:
        raise InputError("--max-drop is in points of top-1 accuracy", got=points, expected="above 0 and below 100")
    if request.precision is not Precision.INT8:
        fix = "Leave --max-drop out, or build with --precision int8."
        raise InputError("--max-drop chooses between INT8 and FP16", got=f"--precision {request.precision}", fix=fix)
    if request.calibration_data is None:
        raise InputError("--max-drop runs the network on images", got="no --calibration-data", fix="Give it too.")


def open_budget(
    request: BuildRequest, source: Source, data: CalibrationData | None, warn: Callable[[str], None]
) -> AccuracyBudget | None:
    """The budget of ``request``, or None where it has none.

    Raises:
        InputError: the network is no classifier, the labelled images are not its classes, or there are so few images
            that one of them is more than the budget.
    """
    if request.max_drop is None:
        return None
    assert data is not None
    scores = _scores(source)
    images = data if request.eval_data is None else _labelled(request, source, scores, warn)
    found, points = len(images), request.max_drop
    if points < 100 / found:
        where = "--calibration-data" if request.eval_data is None else "--eval-data"
        raise InputError(
            f"--max-drop is finer than one image of {where}",
            got=f"{points:g} points; one of {found} images is {100 / found:.2g}",
            expected=f"{math.ceil(100 / points)} images or more",
            fix=f"Give more images, or --max-drop {_ceil(100 / found):g} or more.",
        )
    halved = found >= HOLD_OUT_FROM and points >= 100 / (found // 2)
    parts = [images.part(index, 2) for index in range(2)] if halved else [images]
    replays = [_replay(part) for part in parts]
    metric = "agreement" if request.eval_data is None else "top1"
    path = request.eval_data or request.calibration_data
    words = f"{len(parts[-1])} images from {path}" + (f", chosen on {len(parts[0])} others" if halved else "")
    return AccuracyBudget(points, metric, scores, replays[0], replays[-1], words)


def _scores(source: Source) -> str:
    manifest = source.manifest
    if manifest.task == "detection" or source.nms is not None:
        raise InputError(
            f"{source.path} is a detector: --max-drop counts the top-1 class of a classifier",
            fix="Leave --max-drop out; to compare with FP32: python -m deploy verify REFERENCE OTHER --data DIR.",
        )
    scores = scores_output(manifest.outputs)
    (spec,) = (spec for spec in manifest.outputs if spec.name == scores)
    if len(spec.shape) != 2:
        raise InputError(
            "--max-drop counts the top-1 class of a classifier", got=spec, expected="an output [images, classes]"
        )
    return scores


def _labelled(request: BuildRequest, source: Source, scores: str, warn: Callable[[str], None]) -> LabelledImages:
    manifest = source.manifest
    assert request.eval_data is not None
    if manifest.preprocessing is None or len(manifest.inputs) != 1:
        got = "no image preprocessing" if manifest.preprocessing is None else f"{len(manifest.inputs)} inputs"
        fix = "Leave --eval-data out: the drop is then counted against the FP32 graph's answers."
        raise InputError("--eval-data feeds images to a network of one input", got=got, fix=fix)
    images = LabelledImages(request.eval_data, manifest.preprocessing, manifest.inputs[0], on_error=tell_once(warn))
    (classes,) = (spec.shape[-1] for spec in manifest.outputs if spec.name == scores)
    images.match(str(source.path), manifest.labels, classes)
    return images


def _replay(images: LabelledImages | CalibrationData) -> Images:
    def read() -> Iterator[Batch[Array | None]]:
        if isinstance(images, LabelledImages):
            yield from ((feeds, labels) for feeds, labels, _ in images.batches(BATCH))
        else:
            yield from ((feeds, None) for feeds in images.batches(BATCH))

    return Replay(read)


def _ceil(points: float) -> float:
    """Rounded up to two digits behind the point."""
    return math.ceil(round(100 * points, 6)) / 100
