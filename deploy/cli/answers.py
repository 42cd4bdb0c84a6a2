"""What ``infer`` makes of a network's outputs, by the network's task: classes with probabilities, or boxes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from deploy.cli.options import NMS_OPTIONS, add_nms_options, nms_settings
from deploy.errors import InputError
from deploy.specs import NmsSettings

if TYPE_CHECKING:
    import PIL.Image

    from deploy.images.classify import Prediction
    from deploy.images.decode import RgbImage
    from deploy.images.detect import Detection
    from deploy.images.fit import Fit
    from deploy.runtime.base import Array, Runner

TOP_K = 5

_T = TypeVar("_T")


class Answers(Protocol[_T]):
    """One task's way with outputs. ``key`` is the name of an image's answers under ``--json``."""

    key: str

    def of(self, outputs: dict[str, Array], fits: Sequence[Fit]) -> list[list[_T]]:
        """The answers for each image of a batch."""
        ...

    def line(self, answer: _T) -> str:
        """One answer, for a person."""
        ...

    def as_dict(self, answer: _T) -> dict[str, Any]:
        """One answer, for a program."""
        ...

    def draw(self, image: RgbImage, answers: Sequence[_T]) -> PIL.Image.Image:
        """The image with its answers in it."""
        ...


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """The options of each task. Their defaults come later: one that is given must fit the task."""
    parser.add_argument("--top-k", type=int, metavar="K", help=f"classes to print per image (default {TOP_K})")
    add_nms_options(parser)


def answers_of(runner: Runner, args: argparse.Namespace, labels: tuple[str, ...] | None) -> Answers[Any]:
    """The answers that ``runner`` gives, ``labels`` in place of its own.

    Raises:
        InputError: an option is of another task, or not what the NMS inside the graph can do.
    """
    from deploy.images.classify import scores_output

    labels = labels or (runner.manifest.labels if runner.manifest else None)
    if not _detects(runner):
        _refuse(args, NMS_OPTIONS, "a classifier", "boxes")
        top_k = TOP_K if args.top_k is None else args.top_k
        return _Classes(scores_output(runner.outputs), top_k, labels, own=runner.manifest is not None)
    _refuse(args, ("top_k",), "a detector", "classes")
    return _Boxes(_settings(runner, args), labels)


def _detects(runner: Runner) -> bool:
    if runner.manifest is not None:
        return runner.manifest.task == "detection"
    from deploy.images.detect import BOXES, DETECTIONS, SCORES

    names = {spec.name for spec in runner.outputs}
    return names in ({BOXES, SCORES}, {DETECTIONS})


def _refuse(args: argparse.Namespace, options: Sequence[str], what: str, about: str) -> None:
    for name in options:
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is about {about}, which {what} does not answer", fix=f"Leave {flag} out.")


def _settings(runner: Runner, args: argparse.Namespace) -> NmsSettings:
    inside = runner.manifest.nms if runner.manifest else None
    asked = nms_settings(args, inside)
    if inside is None:
        return asked
    fix = "Build the engine again with these settings, or without --nms."
    if asked.iou_threshold != inside.iou_threshold:
        raise InputError(
            "NMS is inside this file, at another IoU", got=asked.iou_threshold, expected=inside.iou_threshold, fix=fix
        )
    if asked.score_threshold < inside.score_threshold:
        raise InputError(
            "NMS is inside this file and has dropped what scores lower",
            got=f"--score-threshold {asked.score_threshold}",
            expected=f"{inside.score_threshold} or more",
            fix=fix,
        )
    if asked.max_detections > inside.max_detections:
        raise InputError(
            "NMS is inside this file and keeps fewer boxes",
            got=f"--max-detections {asked.max_detections}",
            expected=f"{inside.max_detections} or fewer",
            fix=fix,
        )
    return asked


class _Classes:
    """A classifier's answers: the most probable classes."""

    key = "predictions"

    def __init__(self, output: str, top_k: int, labels: tuple[str, ...] | None, *, own: bool) -> None:
        self._output, self._top_k, self._labels, self._own = output, top_k, labels, own

    def of(self, outputs: dict[str, Array], fits: Sequence[Fit]) -> list[list[Prediction]]:
        from deploy.images.classify import are_probabilities, log_probabilities, top_k

        scores = outputs[self._output]
        if not self._own and are_probabilities(scores):
            scores = log_probabilities(scores)  # others' graphs may end in a softmax: a second one would flatten it
        return top_k(scores, self._top_k, self._labels)

    def line(self, answer: Prediction) -> str:
        return f"{100 * answer.probability:6.2f} %  {answer.label or answer.index}"

    def as_dict(self, answer: Prediction) -> dict[str, Any]:
        return asdict(answer)

    def draw(self, image: RgbImage, answers: Sequence[Prediction]) -> PIL.Image.Image:
        from deploy.images.draw import draw_caption

        return draw_caption(image, [self.line(answer).strip() for answer in answers])


class _Boxes:
    """A detector's answers: the boxes that count."""

    key = "detections"

    def __init__(self, settings: NmsSettings, labels: tuple[str, ...] | None) -> None:
        self._settings, self._labels = settings, labels

    def of(self, outputs: dict[str, Array], fits: Sequence[Fit]) -> list[list[Detection]]:
        from deploy.images.detect import detect

        return detect(outputs, fits, self._settings, self._labels)

    def line(self, answer: Detection) -> str:
        label = str(answer.label or answer.index)
        return f"{100 * answer.score:6.2f} %  {label:<16}  " + " ".join(f"{side:7.1f}" for side in answer.box)

    def as_dict(self, answer: Detection) -> dict[str, Any]:
        return {**asdict(answer), "box": list(answer.box)}

    def draw(self, image: RgbImage, answers: Sequence[Detection]) -> PIL.Image.Image:
        from deploy.images.draw import draw_detections

        return draw_detections(image, answers)
