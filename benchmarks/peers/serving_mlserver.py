"""A custom runtime of MLServer. Bytes cross its REST protocol in base64, by its own codec.

Its JSON lists of numbers cost it ten times as much, and it has no binary tensors over REST.
"""

from __future__ import annotations

import asyncio
import os

from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse
from serving_network import Network


class Runtime(MLModel):
    async def load(self) -> bool:
        self._network, self._kind = Network(), os.environ["BENCHMARK_KIND"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await asyncio.to_thread(self._predict, payload)

    def _predict(self, payload: InferenceRequest) -> InferenceResponse:
        items = Base64Codec.decode_input(payload.inputs[0])
        logits = self._network.run(self._network.rows(self._kind, items))
        output = Base64Codec.encode_output("logits", [row.tobytes() for row in logits])
        return InferenceResponse(model_name=self.name, outputs=[output])
