"""Images → predictions, by an ONNX graph (ONNX Runtime) or a TensorRT engine.

python infer.py --engine mobilenet_v3_large.onnx cat.jpg
python infer.py --engine digits.int8.rtx.plan --top-k 3 photos/ --json
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console
from deploy.cli.options import add_image_size
from deploy.errors import InputError

if TYPE_CHECKING:
    from deploy.images.classify import Prediction
    from deploy.runtime.base import Array, Runner
    from deploy.specs import Preprocessing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", required=True, metavar="FILE", type=Path, help="an .onnx graph or a .plan engine")
    parser.add_argument("images", nargs="+", metavar="IMAGE|DIR", type=Path, help="image files, or folders of them")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes to print per image (default 5)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per batch (default 8)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (default auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="class names, one a line, instead of the model's own"
    )
    add_image_size(parser, "for a graph without a manifest: height and width of its input in pixels")


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.images.classify import read_labels
    from deploy.runtime.open import open_runner

    _check_positive(args)
    labels = read_labels(args.labels) if args.labels else None
    with open_runner(args.engine, device=args.device, threads=args.threads) as runner:
        if runner.manifest is not None and runner.manifest.weights.warning:
            console.warn(runner.manifest.weights.warning)
        job = _Job(runner, args, labels, console)
        results, seconds = job.run(args.images)
    _report(console, job, results, seconds)
    # The readable images have been answered; that one was not still shows in the exit code.
    return InputError.exit_code if job.unreadable else 0


def _check_positive(args: argparse.Namespace) -> None:
    for name in ("top_k", "batch_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} is a count", got=value, expected="1 or more", fix=f"Leave {flag} out for the default."
            )


class _Job:
    """Images through one runner; unreadable ones are reported and skipped."""

    def __init__(
        self, runner: Runner, args: argparse.Namespace, labels: tuple[str, ...] | None, console: Console
    ) -> None:
        self.runner, self._console = runner, console
        self.engine: Path = args.engine
        self.preprocessing = _preprocessing(runner, args.image_size, console)
        self.unreadable: list[tuple[Path, InputError]] = []
        self._labels = labels or (runner.manifest.labels if runner.manifest else None)
        self._top_k, self._batch_size = args.top_k, args.batch_size
        self._scores = _scores(runner)

    def run(self, given: list[Path]) -> tuple[dict[Path, list[Prediction]], float]:
        """Predictions per image, and the seconds from the first byte read to the last prediction."""
        from deploy.data.loading import image_batches

        start, paths = time.perf_counter(), self._find(given)
        results: dict[Path, list[Prediction]] = {}
        for batch, files in image_batches(paths, self.preprocessing, self._batch_size, self._skip):
            results.update(zip(files, self._predict(batch)))
        return results, time.perf_counter() - start

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

    def _predict(self, batch: Array) -> list[list[Prediction]]:
        from deploy.images.classify import are_probabilities, log_probabilities, top_k
        from deploy.images.layout import as_input
        from deploy.runtime.rows import infer_rows

        spec = self.runner.inputs[0]
        outputs = infer_rows(self.runner, {spec.name: as_input(batch, spec)})
        scores = outputs[self._scores]
        if self.runner.manifest is None and are_probabilities(scores):
            scores = log_probabilities(scores)  # others' graphs may end in a softmax: a second one would flatten it
        return top_k(scores, self._top_k, self._labels)

    def _skip(self, path: Path, error: InputError) -> None:
        self.unreadable.append((path, error))
        self._console.warn(f"skipped: {error.headline}")


def _scores(runner: Runner) -> str:
    """The first output ``[images, classes]`` of numbers; of none like that the first, whose error will say so."""
    likely = (spec.name for spec in runner.outputs if len(spec.shape) == 2 and spec.dtype.startswith("float"))
    return next(likely, runner.outputs[0].name)


def _preprocessing(runner: Runner, image_size: tuple[int, int] | None, console: Console) -> Preprocessing:
    if runner.manifest is not None and runner.manifest.preprocessing is not None:
        return runner.manifest.preprocessing
    from deploy.images.default import default_preprocessing, describe_default

    preprocessing = default_preprocessing(runner.inputs, image_size)
    console.warn(f"the file has no manifest: assuming {describe_default(preprocessing)}")
    return preprocessing


def _report(console: Console, job: _Job, results: dict[Path, list[Prediction]], seconds: float) -> None:
    if console.as_json:
        console.document(_document(job, results, seconds))
        return
    for path, predictions in results.items():
        console.text(f"{path}")
        for prediction in predictions:
            console.text(f"  {100 * prediction.probability:6.2f} %  {prediction.label or prediction.index}")
    rate = len(results) / seconds
    count = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    console.text(f"{count} in {seconds:.3f} s, {rate:.1f} images/s with decoding; {job.runner.execution}")


def _document(job: _Job, results: dict[Path, list[Prediction]], seconds: float) -> dict[str, Any]:
    manifest = job.runner.manifest
    return {
        "engine": str(job.engine),
        "model": manifest.model if manifest else None,
        "execution": job.runner.execution,
        "warning": manifest.weights.warning if manifest else None,
        "preprocessing": job.preprocessing.to_dict(),
        "images": [
            {"image": str(path), "predictions": [asdict(prediction) for prediction in predictions]}
            for path, predictions in results.items()
        ],
        "unreadable": [{"image": str(path), **error.as_dict()} for path, error in job.unreadable],
        "seconds": seconds,
        "images_per_second": len(results) / seconds,
    }
