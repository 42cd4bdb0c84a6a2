"""``deploy serve`` on a network that takes as long as the first number of a row says: run as a script by tests."""

from __future__ import annotations

import sys
import time

import deploy.runtime.open as opening
from deploy.cli.main import entry
from deploy.runtime.base import Runner
from deploy.specs import TensorSpec


class Sleeper(Runner):
    """Sleeps for the largest ``input[:, 0, 0, 0]`` seconds; takes tensors, and images, which are darker than that."""

    backend, execution = "fake", "fake"
    inputs = (TensorSpec("input", "float32", ("batch", 3, 32, 32)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 3)),)

    def infer(self, feeds):
        time.sleep(max(0.0, float(feeds["input"][:, 0, 0, 0].max())))
        return {"logits": feeds["input"].mean(axis=(2, 3))}

    def close(self):
        pass


if __name__ == "__main__":
    opening.open_runner = lambda *given, **options: Sleeper()
    sys.argv[1:1] = ["serve"]
    entry()
