"""The inputs that every server is asked about, and the answers that it has to give."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _serving_load import TOLERANCE
from PIL import Image

from deploy.images.synthetic import synthetic_images
from deploy.runtime.onnxrt import OnnxRunner
from deploy.serving.images import prepare

COUNT, SIZE, GRAIN, QUALITY = 4, (768, 1024), 4.0, 85  # JPEG files of 120 KB, as photographs of this size have
KINDS = {"tensor": "binary FP32", "image": "JPEG"}


@dataclass(frozen=True)
class Inputs:
    """Images, the same prepared (float32 ``[count, 3, height, width]``), and the logits of each."""

    files: list[bytes]
    batch: np.ndarray
    expected: np.ndarray

    def items(self, kind: str) -> list[bytes]:
        return self.files if kind == "image" else [row.tobytes() for row in self.batch]

    def save(self, folder: Path) -> None:
        np.savez(folder / "inputs.npz", batch=self.batch, expected=self.expected)
        for index, file in enumerate(self.files):
            (folder / f"{index}.jpg").write_bytes(file)

    @staticmethod
    def load(folder: Path) -> Inputs:
        with np.load(folder / "inputs.npz") as arrays:
            files = [(folder / f"{index}.jpg").read_bytes() for index in range(len(arrays["batch"]))]
            return Inputs(files, arrays["batch"], arrays["expected"])


def make(graph: Path) -> Inputs:
    """Images from a seed, and what the graph says of them.

    Raises:
        SystemExit: its answers are too much alike to tell which belongs to which.
    """
    files = [_jpeg(pixels, seed) for seed, pixels in enumerate(synthetic_images(COUNT, SIZE))]
    with OnnxRunner(graph, device="cpu", threads=1) as runner:
        batch = prepare(runner, files, SIZE[0] * SIZE[1])[0][runner.inputs[0].name]
        expected = runner.infer({runner.inputs[0].name: batch})[runner.outputs[0].name]
    apart = min(np.abs(a - b).max() for index, a in enumerate(expected) for b in expected[:index])
    if apart < 10 * TOLERANCE:
        raise SystemExit(f"the network's answers to {COUNT} images are only {apart:.3g} apart")
    return Inputs(files, batch, expected)


def _jpeg(pixels: np.ndarray, seed: int) -> bytes:
    grain = np.random.default_rng(seed).normal(0, GRAIN, SIZE)[..., None]
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
