"""torchvision as the oracle of names, shapes, initialisation and outputs."""

from __future__ import annotations

import importlib

import pytest
import torch


@pytest.fixture(scope="session")
def torchvision_models():
    """``torchvision.models``, also of a torchvision whose compiled operators are for another PyTorch.

    No model here uses these operators, but torchvision does not import unless their names exist.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        models = importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        models = importlib.import_module("torchvision.models")
    yield models  # noqa: PT022 - the library lives as long as this fixture
