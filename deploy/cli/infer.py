"""Images → predictions or detections, by an ONNX graph (ONNX Runtime) or a TensorRT engine.

python infer.py --engine mobilenet_v3_large.onnx cat.jpg
python infer.py --engine digits.int8.rtx.plan --top-k 3 photos/ --json
python infer.py --engine yolov5s.onnx photos/ --score-threshold 0.4 --save drawn/
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.answers import add_answer_options, answers_of
from deploy.cli.console import Console
from deploy.cli.options import add_image_size
from deploy.cli.rebuild import add_rebuild, rebuild_engines
from deploy.errors import InputError

if TYPE_CHECKING:
    from deploy.runtime.base import Runner
    from deploy.specs import Preprocessing


BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", required=True, metavar="FILE", type=Path, help="an .onnx graph or a .plan engine")
    parser.add_argument("images", nargs="+", metavar="IMAGE|DIR", type=Path, help="image files, or folders of them")
    add_answer_options(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"images per batch (default {BATCH})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (default auto)")
    add_rebuild(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="class names, one a line, instead of the model's own"
    )
    add_image_size(parser, "for a graph without a manifest: height and width of its input in pixels")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="write each image there, with its boxes drawn in or its classes below"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.images.classify import read_labels
    from deploy.runtime.open import open_runner

    _check_positive(args)
    labels = read_labels(args.labels) if args.labels else None
    rebuild_engines(args, [args.engine], console)
    with open_runner(args.engine, device=args.device, threads=args.threads) as runner:
        if runner.manifest is not None and runner.manifest.weights.warning:
            console.warn(runner.manifest.weights.warning)
        _note_batch(runner, args.batch_size, console)
        job = _Job(runner, args, labels, console)
        results, seconds = job.run(args.images)
    _report(console, job, results, seconds)
    # The readable images have been answered; that one was not still shows in the exit code.
    return InputError.exit_code if job.unreadable or job.unsaved else 0


def _note_batch(runner: Runner, size: int | None, console: Console) -> None:
    """Say what becomes of a batch size that was asked for and that an engine does not take as it is."""
    engine = runner.manifest.engine if runner.manifest is not None else None
    if size is None or engine is None:
        return
    from deploy.engine.preflight import batch_remark

    if remark := batch_remark(engine.batch, size):
        console.note(remark)


def _check_positive(args: argparse.Namespace) -> None:
    for name in ("top_k", "max_detections", "batch_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} is a count", got=value, expected="1 or more", fix=f"Leave {flag} out for the default."
            )


# The answers to each image; their kind is the task's (see deploy.cli.answers).
_Results = dict[Path, list[Any]]


class _Job:
    """Images through one runner; unreadable ones are reported and skipped."""

    def __init__(
        self, runner: Runner, args: argparse.Namespace, labels: tuple[str, ...] | None, console: Console
    ) -> None:
        self.runner, self._console = runner, console
        self.engine: Path = args.engine
        self.answers = answers_of(runner, args, labels)
        self.preprocessing = _preprocessing(runner, args.image_size, console)
        self.unreadable: list[tuple[Path, InputError]] = []
        self.saved: dict[Path, Path] = {}
        self.unsaved: list[tuple[Path, InputError]] = []
        self._batch_size, self._folder = args.batch_size or BATCH, args.save

    def run(self, given: list[Path]) -> tuple[_Results, float]:
        """Answers per image, and the seconds from the first byte read to the last answer."""
        from deploy.data.loading import image_batches
        from deploy.images.fit import fit
        from deploy.images.layout import as_input
        from deploy.runtime.rows import infer_rows

        start, paths = time.perf_counter(), self._find(given)
        places, spec = self._places(paths), self.runner.inputs[0]
        results: _Results = {}
        for batch, files, sizes in image_batches(paths, self.preprocessing, self._batch_size, self._skip):
            outputs = infer_rows(self.runner, {spec.name: as_input(batch, spec)})
            answers = self.answers.of(outputs, [fit(size, self.preprocessing) for size in sizes])
            results.update(zip(files, answers))
            self._save(dict(zip(files, answers)), places)
        return results, time.perf_counter() - start

    def _places(self, paths: list[Path]) -> dict[Path, Path]:
        if self._folder is None:
            return {}
        from deploy.images.saving import targets

        places = targets(self._folder, paths)
        there = sum(place.exists() for place in places.values())
        if there:
            self._console.warn(f"{there} of the files in {self._folder} will be replaced")
        return places

    def _save(self, results: _Results, places: dict[Path, Path]) -> None:
        if not places:
            return
        from deploy.images.decode import decode
        from deploy.images.saving import save

        for path, answers in results.items():
            try:
                save(self.answers.draw(decode(path), answers), places[path])
            except InputError as error:  # a name too long for the folder, say: the others are written
                self.unsaved.append((path, error))
                self._console.warn(f"not saved: {error.headline}")
            else:
                self.saved[path] = places[path]

    def _find(self, given: list[Path]) -> list[Path]:
        """The images; of several paths, one that leads nowhere is reported and skipped."""
        from deploy.data.files import find_images

        if len(given) == 1:
            return find_images(given)
        found: dict[Path, None] = {}
        for path in given:
            try:
                found.update(dict.fromkeys(find_images([path])))
            except InputError as error:
                self._skip(path, error)
        if not found:
            raise InputError("none of the paths leads to an image", got=", ".join(map(str, given)))
        return list(found)

    def _skip(self, path: Path, error: InputError) -> None:
        self.unreadable.append((path, error))
        self._console.warn(f"skipped: {error.headline}")


def _preprocessing(runner: Runner, image_size: tuple[int, int] | None, console: Console) -> Preprocessing:
    if runner.manifest is not None and runner.manifest.preprocessing is not None:
        if image_size not in (None, runner.manifest.preprocessing.crop):
            expected = runner.manifest.preprocessing
            raise InputError("the file says how images are prepared for it", got="--image-size", expected=expected)
        return runner.manifest.preprocessing
    from deploy.images.default import default_preprocessing, describe_default

    preprocessing = default_preprocessing(runner.inputs, image_size)
    console.warn(f"the file does not say how images are prepared: assuming {describe_default(preprocessing)}")
    return preprocessing


def _report(console: Console, job: _Job, results: _Results, seconds: float) -> None:
    if console.as_json:
        console.document(_document(job, results, seconds))
        return
    for path, answers in results.items():
        console.text(f"{path} → {job.saved[path]}" if path in job.saved else f"{path}")
        for answer in answers:
            console.text(f"  {job.answers.line(answer)}")
        if not answers:
            console.text("  nothing found")
    rate = len(results) / seconds
    count = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    console.text(f"{count} in {seconds:.3f} s, {rate:.1f} images/s with decoding; {job.runner.execution}")


def _document(job: _Job, results: _Results, seconds: float) -> dict[str, Any]:
    manifest = job.runner.manifest
    return {
        "engine": str(job.engine),
        "model": manifest.model if manifest else None,
        "execution": job.runner.execution,
        "warning": manifest.weights.warning if manifest else None,
        "preprocessing": job.preprocessing.to_dict(),
        "images": [_entry(job, path, answers) for path, answers in results.items()],
        "unreadable": [{"image": str(path), **error.as_dict()} for path, error in job.unreadable],
        "unsaved": [{"image": str(path), **error.as_dict()} for path, error in job.unsaved],
        "seconds": seconds,
        "images_per_second": len(results) / seconds,
    }


def _entry(job: _Job, path: Path, answers: list[Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": str(path), job.answers.key: [job.answers.as_dict(answer) for answer in answers]}
    return {**entry, "saved": str(job.saved[path])} if path in job.saved else entry
