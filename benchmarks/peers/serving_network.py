"""What the other servers of ``benchmarks/serving.py`` run: the graph in ONNX Runtime, and our decoder for images.

The same session settings, the same decoder and as many decoding threads as ours, so that only the server differs.
Runs in each peer's own environment, with the root of this repository on the path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

from deploy.images.decode import decode
from deploy.images.preprocess import preprocess
from deploy.manifest import METADATA_KEY, Manifest

DECODERS = 2  # as deploy.serving.service.Service


class Network:
    """The graph that ``BENCHMARK_GRAPH`` names, with ``BENCHMARK_THREADS`` threads for one operator."""

    def __init__(self) -> None:
        graph, options = os.environ["BENCHMARK_GRAPH"], ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCHMARK_THREADS"])
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        manifest = Manifest.from_json(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY], graph)
        self._preprocessing = manifest.preprocessing
        self._decoders = ThreadPoolExecutor(DECODERS)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """float32 ``[rows, 3, height, width]`` → logits float32 ``[rows, classes]``."""
        return self._session.run(None, {self._input: batch})[0]

    def tensors(self, rows: Sequence[bytes]) -> np.ndarray:
        """Raw float32 tensors, one row each → the batch."""
        return np.concatenate([np.frombuffer(row, np.float32).reshape(1, 3, *self._preprocessing.crop) for row in rows])

    def images(self, files: Sequence[bytes]) -> np.ndarray:
        """Encoded images, one row each → the batch."""
        return np.stack(list(self._decoders.map(self._prepared, files)))

    def _prepared(self, file: bytes) -> np.ndarray:
        return preprocess(decode(file), self._preprocessing)

    def rows(self, kind: str, items: Sequence[bytes]) -> np.ndarray:
        return self.tensors(items) if kind == "tensor" else self.images(items)
