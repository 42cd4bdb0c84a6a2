"""How hard INT8 is worked on: named sets of parts, any of which can be left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from deploy.errors import InputError

EQUALIZATION = "equalization"
BIAS_CORRECTION = "bias-correction"
RECONSTRUCTION = "reconstruction"
ROUNDING = "rounding"

# What each part does, in the order in which they are done.
PARTS = {
    EQUALIZATION: "channels of inner tensors are made equally wide where that is exact (deploy/quantize/equalize.py)",
    RECONSTRUCTION: "weights are fitted to their quantized inputs, layer by layer (deploy/quantize/least_squares.py)",
    ROUNDING: "weights are rounded together, not one by one (deploy/quantize/rounding.py)",
    BIAS_CORRECTION: "biases take back by how much a layer's mean has moved (deploy/quantize/reconstruct.py)",
}
RECIPES = {"fast": (EQUALIZATION,), "best": tuple(PARTS)}
DEFAULT_RECIPE = "fast"


@dataclass(frozen=True)
class Recipe:
    """A name and the parts it consists of."""

    name: str = DEFAULT_RECIPE
    parts: tuple[str, ...] = RECIPES[DEFAULT_RECIPE]

    @classmethod
    def of(cls, name: str, without: Collection[str] = ()) -> Recipe:
        """The recipe ``name`` without some of its parts.

        Raises:
            InputError: unknown recipe, or it has no such part.
        """
        if name not in RECIPES:
            raise InputError("unknown recipe", got=name, expected=", ".join(RECIPES))
        if foreign := [part for part in without if part not in RECIPES[name]]:
            raise InputError(f"recipe {name} has no part {foreign[0]}", expected=", ".join(RECIPES[name]))
        return cls(name, tuple(part for part in RECIPES[name] if part not in without))

    def without(self, part: str) -> Recipe:
        """The same without ``part``, whether it was there or not."""
        return Recipe(self.name, tuple(other for other in self.parts if other != part))

    @property
    def equalizes(self) -> bool:
        return EQUALIZATION in self.parts

    @property
    def corrects(self) -> bool:
        """Whether layers are corrected one by one, which needs the images."""
        return any(part != EQUALIZATION for part in self.parts)
