"""The vocabulary shared by every stage: precisions, tensors, batch profiles and preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from deploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# A named axis ("batch") is dynamic; a number is fixed.
Dim = int | str
BATCH = "batch"


# More than any network takes; a damaged or hostile manifest must not ask for memory without bound.
LARGEST_SIDE = 1 << 14

# Mean and std that leave pixels as they are: (pixel / 255 - 0) / (1 / 255).
RAW_PIXELS = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))

# How an image comes to the network's size → the interpolations that can do it.
_INTERPOLATIONS = {"crop": ("bilinear", "bicubic"), "squash": ("bilinear", "bicubic"), "letterbox": ("linear",)}


class Precision(str, Enum):
    """Precision of a graph's arithmetic. Inputs and outputs are FP32 in all of them."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a graph's input or output."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"

    def check(self, array: np.ndarray[Any, Any]) -> None:
        """Raise :class:`InputError` unless ``array`` has this dtype and fits this shape."""
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(self.shape, array.shape)
        )
        if not fits or array.dtype.name != self.dtype:
            raise InputError(
                f"tensor '{self.name}' does not fit the model",
                got=f"{array.dtype.name}{list(array.shape)}",
                expected=f"{self.dtype}[{', '.join(map(str, self.shape))}]",
            )

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec(fields["name"], fields["dtype"], tuple(fields["shape"]))


def batch_of(inputs: Sequence[TensorSpec]) -> Dim | None:
    """The batch axis of a network: the first axis that is dynamic, else that of the input of the most axes.

    None where every input is a fixed vector or a number.
    """
    firsts = [spec.shape[0] for spec in inputs if spec.shape]
    deepest = max((spec.shape for spec in inputs), key=len, default=())
    return next((dim for dim in firsts if isinstance(dim, str)), deepest[0] if len(deepest) > 1 else None)


def follows_batch(spec: TensorSpec, batch: Dim | None) -> bool:
    """Whether the first axis of ``spec`` is the ``batch`` of its network: dynamic as it is, or of its size."""
    if not spec.shape or batch is None:
        return False
    return isinstance(spec.shape[0], str) if isinstance(batch, str) else spec.shape[0] == batch


def image_input(size: tuple[int, int]) -> TensorSpec:
    """The one input of our networks: normalised RGB images of ``size`` (height, width)."""
    return TensorSpec("input", "float32", (BATCH, 3, *size))


@dataclass(frozen=True)
class ShapeProfile:
    """Smallest, most usual and largest batch an engine is built for."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise InputError(
                "a batch profile must not decrease and starts at 1 or more",
                got=f"{self.min}:{self.opt}:{self.max}",
                expected="MIN:OPT:MAX, for example 1:8:32",
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @staticmethod
    def parse(text: str) -> ShapeProfile:
        """``"1:8:32"``, or ``"8"`` for an engine of one batch size."""
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3:
            raise InputError("cannot read the batch profile", got=text, expected="MIN:OPT:MAX, for example 1:8:32")
        return ShapeProfile(*numbers)


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded RGB image to the network's input: values ``(pixel / 255 - mean) / std``, layout NCHW, float32.

    ``mode`` says how an image comes to the size of ``crop`` (height, width):

    - ``crop``: the shorter side is resized to ``resize`` pixels with antialiasing and the centre is cut, as
      torchvision's evaluation transform does it.
    - ``squash``: the image is resized to ``crop`` with antialiasing, whatever its proportions; where ``resize`` is more
      than the crop's shorter side, to as much more, and the centre is cut (timm's ``squash``).
    - ``letterbox``: the image is resized to fit inside, by OpenCV's rule of ``linear`` interpolation, which knows no
      antialiasing, and centred on grey 114 (YOLO's ``letterbox`` without ``auto``).

    ``letterbox`` does not use ``resize``.
    """

    resize: int
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mode: str = "crop"

    def __post_init__(self) -> None:
        if self.mode not in _INTERPOLATIONS:
            raise InputError("unknown way to fit images", got=self.mode, expected=", ".join(_INTERPOLATIONS))
        if self.interpolation not in _INTERPOLATIONS[self.mode]:
            expected = " or ".join(_INTERPOLATIONS[self.mode])
            raise InputError(f"unknown interpolation of mode {self.mode}", got=self.interpolation, expected=expected)
        if self.mode == "squash" and self.resize < min(self.crop):
            raise InputError("squashed images fill the crop", got=self.resize, expected=f"resize >= {min(self.crop)}")
        if not all(1 <= side <= LARGEST_SIDE for side in (self.resize, *self.crop)):
            raise InputError(
                "resize and crop are in pixels", got=f"{self.resize}, {self.crop}", expected=f"1 to {LARGEST_SIDE}"
            )
        if not all(s > 0 for s in self.std):
            raise InputError("preprocessing divides by std", got=self.std, expected="three positive numbers")

    def __str__(self) -> str:
        size = f"{self.crop[0]}x{self.crop[1]}"
        if self.mode == "squash" and self.resize != min(self.crop):
            how = f"squash to {self.resize} {self.interpolation}, crop {size}"
        elif self.mode == "crop":
            how = f"resize {self.resize} {self.interpolation}, crop {size}"
        else:
            how = f"{self.mode} to {size} {self.interpolation}"
        if (self.mean, self.std) == (Preprocessing.mean, Preprocessing.std):
            return how
        if (self.mean, self.std) == RAW_PIXELS:
            return f"{how}, raw pixels"
        return f"{how}, mean {_numbers(self.mean)}, std {_numbers(self.std)}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Preprocessing:
        return Preprocessing(
            int(fields["resize"]),
            (int(fields["crop"][0]), int(fields["crop"][1])),
            fields["interpolation"],
            (fields["mean"][0], fields["mean"][1], fields["mean"][2]),
            (fields["std"][0], fields["std"][1], fields["std"][2]),
            fields.get("mode", "crop"),
        )

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: two equal digests prepare images equally."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class NmsSettings:
    """Which boxes of a detector count; the defaults are YOLOv5's.

    Those that score above ``score_threshold``, best first and at most ``max_detections`` of an image, without those
    that overlap a better one of the same class by an IoU above ``iou_threshold``.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"the {name.replace('_', ' ')} is a share", got=value, expected="0 to 1")
        if not 1 <= self.max_detections <= LARGEST_SIDE:
            expected = f"1 to {LARGEST_SIDE}"
            raise InputError("the detections of an image are counted", got=self.max_detections, expected=expected)

    def __str__(self) -> str:
        return f"score above {self.score_threshold}, IoU up to {self.iou_threshold}, at most {self.max_detections}"


def _numbers(channels: tuple[float, float, float]) -> str:
    """One number where all channels have it."""
    return ",".join(f"{value:.4g}" for value in (channels[:1] if len(set(channels)) == 1 else channels))


@dataclass(frozen=True)
class NetworkOptions:
    """Which network a model's name means.

    Attributes:
        weights: ``auto``, ``pretrained[:TAG]``, ``random`` or a file; see :func:`models.weights.load_weights`.
        num_classes: where they differ from the model's own.
        image_size: height and width of the input in pixels; None is the model's own.
        resize, interpolation, mean, std: of :class:`Preprocessing`, where training did otherwise than the model's own.
        options: of the model, such as ``("width_mult", 0.75)``.
    """

    weights: str = "auto"
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
