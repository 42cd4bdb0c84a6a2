"""A model of Triton's Python backend: as few lines as its documentation wants. ``1/model.py`` of its repository."""

from __future__ import annotations

import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

# The backend's Python does not read it.
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)

from serving_network import Network  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict) -> None:
        self._network = Network()

    def execute(self, requests: list) -> list:
        """Triton's batch comes as its requests; it is joined here, as its documentation does."""
        arrays = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        batch = np.concatenate(arrays)
        if batch.dtype == object:
            batch = self._network.images(list(batch.reshape(-1)))
        starts = np.cumsum([len(array) for array in arrays])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("logits", rows)])
            for rows in np.split(self._network.run(batch), starts)
        ]
