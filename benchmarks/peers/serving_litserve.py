"""A server of LitServe: raw bytes in and out, so no JSON; batching and its fast queue on."""

import os
import sys
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body, Response
from serving_network import Network

Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._network, self._kind = Network(), os.environ["BENCHMARK_KIND"]

    def decode_request(self, request: Raw) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> np.ndarray:
        """Decodes as well: here threads can share the work, ``decode_request`` is called for one after the other."""
        return self._network.rows(self._kind, inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network.run(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    port, max_batch, delay, workers = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    api = Api(max_batch_size=max_batch, batch_timeout=delay)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
