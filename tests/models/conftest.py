"""torchvision as the oracle of names, shapes, initialisation and outputs."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def torchvision_models():
    import torchvision_operators  # noqa: F401 - before torchvision
    from torchvision import models

    return models
