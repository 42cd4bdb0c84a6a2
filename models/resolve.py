"""A model's name → the network: registered here, of torchvision or timm, or the user's own factory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from models.registry import ModelSpec, create_model, get_spec


@dataclass(frozen=True)
class Resolved:
    """A network and what is known of it.

    Attributes:
        module: in train mode, weights as its code initialised them.
        spec: its facts. Of an external network those that its code tells.
        external: not registered here.
        has_weights: its own code loads its weights, which are kept unless others are asked for.
        examples: its inputs by name, with a leading batch axis, where it does not take one RGB image.
        notes: what had to be assumed, for the user.
    """

    module: nn.Module
    spec: ModelSpec
    external: bool = False
    has_weights: bool = False
    examples: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def takes_images(self) -> bool:
        """Whether the network takes one normalised RGB image ``[N, 3, H, W]``."""
        return not self.examples


def resolve(
    name: str, num_classes: int | None, image_size: tuple[int, int] | None, options: Mapping[str, Any]
) -> Resolved:
    """The network that ``name`` means: freshly initialised, in train mode.

    Args:
        name: a registered name or alias; ``torchvision:NAME``; ``timm:NAME``; ``package.module:factory`` or
            ``file.py:factory``, whose code is run.
        num_classes: where they differ from the network's own.
        image_size: height and width, where they differ from the network's own.
        options: of the network.

    Raises:
        UnknownModel: no model has this name.
        ModelError: the model cannot be made so, its package is missing, or its code fails.
    """
    if ":" not in name:
        spec = get_spec(name)
        return Resolved(create_model(spec.name, num_classes=num_classes, **options), spec)
    # Imported here: others' models bring others' packages.
    from models.external import resolve_external

    return resolve_external(name, num_classes, image_size, options)
