"""The trained digits network and its graphs, made once a session; nothing is imported for tests that do not ask."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(scope="session")
def digits():
    """The network of examples/digits as ``load_network`` gives it: 64x64 pixels, 10 classes."""
    from deploy.runtime.networks import load_network
    from deploy.specs import NetworkOptions

    options = NetworkOptions(
        weights=str(DIGITS / "digits.safetensors"),
        num_classes=10,
        image_size=(64, 64),
        options=(("width_mult", 0.75), ("reduced_tail", True)),
    )
    return load_network("mobilenet_v3_small", options, labels=tuple("0123456789"))


@pytest.fixture(scope="session")
def digit_images(digits):
    """Held-out scans as the network takes them: float32 [64, 3, 64, 64], and their digits."""
    from deploy.images.preprocess import preprocess

    spec = importlib.util.spec_from_file_location("scans_of_digits", DIGITS / "scans.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scans = module.load_scans()[1][:64]
    rgb = [np.repeat(scan.pixels[:, :, None], 3, axis=2) for scan in scans]
    images = np.stack([preprocess(image, digits.preprocessing) for image in rgb])
    return images, np.array([scan.digit for scan in scans])


@pytest.fixture(scope="session")
def _exported(digits):
    from deploy.graph.export import export_graph

    return export_graph(digits.module, digits.inputs, ["logits"])


@pytest.fixture
def exported(_exported):
    """The graph as torch.export and our naming leave it, dynamic batch. A test may change it."""
    return _exported.clone()


@pytest.fixture(scope="session")
def _int8(_exported, digit_images, tmp_path_factory):
    from deploy.data.arrays import ArraySource
    from deploy.graph.fp16 import to_fp16
    from deploy.graph.placement import place
    from deploy.graph.qdq import insert_qdq
    from deploy.quantize.calibrate import calibrate
    from deploy.specs import TensorSpec

    path = tmp_path_factory.mktemp("calibration") / "scans.npz"
    np.savez(path, input=digit_images[0])
    data = ArraySource(path, [TensorSpec("input", "float32", ("batch", 3, 64, 64))])
    placement = place(_exported)
    ranges = calibrate(_exported, placement.tensors, data)
    return to_fp16(insert_qdq(_exported, placement, ranges.amax))


@pytest.fixture
def int8(_int8):
    """The INT8 graph of :func:`exported`, calibrated on :func:`digit_images`. A test may change it."""
    return _int8.clone()
