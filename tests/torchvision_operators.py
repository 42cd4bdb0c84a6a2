"""Import this before torchvision: it then works also with compiled operators made for another PyTorch, or with none.

No test calls these operators, but torchvision does not import unless their names exist.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # the names live as long as this object

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
