"""Networks by name, with their weights and complexity. Depends on PyTorch and on nothing of ``deploy``."""

from __future__ import annotations

# Importing a family registers its models.
from models import efficientnet as efficientnet
from models import efficientnet_v2 as efficientnet_v2
from models import effnetv2 as effnetv2
from models import mobilenetv3 as mobilenetv3
from models import shufflenet_v1 as shufflenet_v1
from models import shufflenet_v2 as shufflenet_v2
from models import yolov5 as yolov5
from models.errors import ModelError, UnknownModel, WeightsError, WeightsUnavailable
from models.registry import (
    Checkpoint,
    ModelSpec,
    Transform,
    check_image_size,
    coco_labels,
    create_model,
    get_spec,
    imagenet_labels,
    list_models,
)
from models.weights import WeightsInfo, load_weights

__all__ = [
    "Checkpoint",
    "ModelError",
    "ModelSpec",
    "Transform",
    "UnknownModel",
    "WeightsError",
    "WeightsInfo",
    "WeightsUnavailable",
    "check_image_size",
    "coco_labels",
    "create_model",
    "get_spec",
    "imagenet_labels",
    "list_models",
    "load_weights",
]
