"""Networks trained inside a benchmark, with the images they are judged on and calibrated with. Nothing is downloaded.

python benchmarks/_trained.py efficientnet_b0 --photos DIR --work DIR --minutes 45

The task is to tell images apart that are seen in random crops, mirrored, in changed colours: one class per image. The
test is the whole image, one per class. With few pixels and many classes margins are thin, and what quantization costs
shows; a ShuffleNetV2 trained until it knew every image lost nothing to MinMax ranges. The images are photographs of
the user's, or textures made here. How far a training comes in its minutes depends on the machine: report the FP32
accuracy with every result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import torch
from _augment import VIEWS, augmented
from _measure import ROOT
from _textures import texture
from _training import CHECKPOINT, LOG, RECIPE, SEED, Training
from PIL import Image, ImageOps

from deploy.artifacts import sha256_bytes, write_bytes
from deploy.data.files import digest_of, find_images, images_below, spread
from deploy.errors import InputError
from deploy.images.decode import decode
from models import create_model

CLASSES = 1000  # at most: of more photographs, some are drawn
STORED = 128  # pixels: the side of the images in the work folder, from which views are cropped
SIZE = 64  # pixels: what the network sees
CALIBRATION_IMAGES = 256
CALIBRATION_SEED = 1_000_000  # no epoch of a training has it

# A short training from nothing underfits: what is meant against overfitting only slows it.
OPTIONS: dict[str, dict[str, Any]] = {"efficientnet_b0": {"dropout": 0.0, "stochastic_depth": 0.0}}


@dataclass(frozen=True)
class Subject:
    """A trained network and its data, as files.

    Attributes:
        name: ``efficientnet_b0 on photographs``.
        model: as the registry has it.
        weights: a state_dict, for ``export.py --weights``.
        image_size: of ``export.py --image-size`` and ``--resize``; bilinear; ImageNet's mean and deviation.
        calibration: a folder of 256 images.
        evaluation: ``<class>/*.jpg``; the sorted order of the folders is the class index.
    """

    name: str
    model: str
    weights: Path
    num_classes: int
    image_size: int
    calibration: Path
    evaluation: Path


def trained(
    model: str, folder: Path, photos: Path | None, minutes: float, progress: Callable[[str], None] = print
) -> Subject:
    """Train ``model`` for ``minutes`` on the images in ``photos`` (at most 1000 of them), by default on textures.

    What ``folder`` holds of the same settings is used: a training of as many minutes as it is, a shorter one as the
    beginning. Training that was killed goes on from its last checkpoint. ``progress`` gets a line per epoch.

    Raises:
        InputError: ``photos`` holds fewer than two images, or one that cannot be read.
    """
    files = None if photos is None else _chosen(photos)
    subject = _subject(model, folder, files)
    _prepare(subject, files, progress)
    images = _load(subject.evaluation)
    torch.manual_seed(SEED)
    network = create_model(model, num_classes=len(images), **OPTIONS.get(model, {}))
    Training(network, images, SIZE, 60 * minutes, folder, progress).run()
    return subject


def photo1000(folder: Path) -> Subject:
    """A network trained elsewhere: ``mobilenet_v3_small.pth``, ``eval/<class>/*.jpg`` and ``calibration/*.jpg``.

    Raises:
        InputError: ``folder`` holds something else.
    """
    model, evaluation = "mobilenet_v3_small", folder / "eval"
    weights, calibration = folder / f"{model}.pth", folder / "calibration"
    for path in (weights, evaluation, calibration):
        if not path.exists():
            expected = f"a folder with {weights.name}, {evaluation.name}/<class>/*.jpg and {calibration.name}/*.jpg"
            raise InputError(f"{path} is missing", got=folder, expected=expected)
    classes = sum(entry.is_dir() for entry in evaluation.iterdir())
    return Subject(f"{model} on photographs", model, weights, classes, 128, calibration, evaluation)


def _chosen(photos: Path) -> list[Path]:
    found = find_images([photos])
    if len(found) < 2:
        raise InputError("there is nothing to tell apart", got=f"{len(found)} image in {photos}", expected="2 or more")
    return [found[index] for index in spread(len(found), CLASSES, SEED)]


def _subject(model: str, folder: Path, files: Sequence[Path] | None) -> Subject:
    kind, classes = ("textures", CLASSES) if files is None else ("photographs", len(files))
    places = folder / "weights.pth", classes, SIZE, folder / "calibration", folder / "evaluation"
    return Subject(f"{model} on {kind}", model, *places)


def _prepare(subject: Subject, files: Sequence[Path] | None, progress: Callable[[str], None]) -> None:
    """Write the images, unless those in the folder and what was trained on them are of the same settings."""
    folder = subject.weights.parent
    note, settings = folder / "settings.json", _settings(subject, files)
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == settings:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (note, subject.weights, folder / CHECKPOINT, folder / LOG):
        stale.unlink(missing_ok=True)
    progress(f"{subject.num_classes} images for {subject.evaluation}")
    _write_evaluation(subject, files)
    _write_calibration(subject)
    write_bytes(note, json.dumps(settings, indent=2).encode())


def _settings(subject: Subject, files: Sequence[Path] | None) -> dict[str, Any]:
    source = f"textures {CLASSES}" if files is None else digest_of(files, [])
    recipe = sha256_bytes(repr((RECIPE, VIEWS, STORED, CALIBRATION_IMAGES, OPTIONS.get(subject.model))).encode())
    return {"model": subject.model, "images": source, "image_size": SIZE, "recipe": recipe}


def _write_evaluation(subject: Subject, files: Sequence[Path] | None) -> None:
    shutil.rmtree(subject.evaluation, ignore_errors=True)
    for index in range(subject.num_classes):
        pixels = texture(index, STORED) if files is None else decode(files[index])
        place = subject.evaluation / f"{index:04}" / ("texture.jpg" if files is None else f"{files[index].stem}.jpg")
        _write_jpeg(pixels, place)


def _write_jpeg(pixels: npt.NDArray[np.uint8], path: Path) -> None:
    """The centre square of an image at ``STORED`` pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    square = ImageOps.fit(Image.fromarray(pixels), (STORED, STORED), Image.Resampling.BILINEAR)
    square.save(path, quality=95)


def _write_calibration(subject: Subject) -> None:
    """Views of the same images that no epoch of the training draws."""
    shutil.rmtree(subject.calibration, ignore_errors=True)
    images = _load(subject.evaluation)
    generator = torch.Generator().manual_seed(CALIBRATION_SEED)
    chosen = torch.randperm(len(images), generator=generator).repeat(CALIBRATION_IMAGES)[:CALIBRATION_IMAGES]
    views = augmented(images[chosen], STORED, generator).mul(255).round().byte().permute(0, 2, 3, 1)
    for index, view in enumerate(views.numpy()):
        _write_jpeg(view, subject.calibration / f"{index:03}.jpg")


def _load(evaluation: Path) -> torch.Tensor:
    """uint8 ``[N, 3, STORED, STORED]`` in the order of the classes."""
    images = np.stack([decode(path) for path in images_below(evaluation)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a network of models/")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="images to tell apart (default: textures)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to write (default: build/quantization/MODEL)")
    parser.add_argument("--minutes", type=float, default=45, help="of training (default %(default)s)")
    args = parser.parse_args()
    folder = args.work or ROOT / "build" / "quantization" / args.model
    subject = trained(args.model, folder, args.photos, args.minutes, lambda line: print(line, flush=True))
    print(f"{subject.name}: {subject.weights}")


if __name__ == "__main__":
    main()
