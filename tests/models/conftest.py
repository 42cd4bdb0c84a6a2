"""torchvision as the oracle of names, shapes, initialisation and outputs."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def torchvision_models():
    import torchvision_operators  # noqa: F401 - before torchvision
    from torchvision import models

    return models


@pytest.fixture(scope="session")
def pair(torchvision_models):
    """Makes a network of ours and torchvision's of that name, each initialised from the same seed, in train mode."""
    import torch

    from models import create_model

    def make(name, **options):
        built = []
        for build in (lambda: create_model(name, **options), lambda: getattr(torchvision_models, name)(**options)):
            torch.manual_seed(0)
            built.append(build())
        return built

    return make
