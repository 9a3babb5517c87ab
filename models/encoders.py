"""Which modalities are images or tables, from a table to a vector, and from an image to a map."""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from models.masking import Seen
from models.unet import Plan, pooled, require_dims, unit
from protocol.groups import modality_group
from protocol.recipe import Modality


def images_of(modalities: Mapping[str, Modality]) -> tuple[str, ...]:
    """Return the names of the images, in the recipe's order."""
    return tuple(name for name, modality in modalities.items() if modality.kind == "image")


def tables_of(modalities: Mapping[str, Modality]) -> tuple[str, ...]:
    """Return the names of the tables, in the recipe's order."""
    return tuple(name for name, modality in modalities.items() if modality.kind == "table")


class Strided(nn.Sequential):
    """`(B, 1, X, Y[, Z])` -> a map of `channels[-1]`, halving the image at each level.

    Strided 3x3 convolutions, each with GroupNorm and ReLU (Springenberg et al., ICLR 2015).
    """

    def __init__(self, plan: Plan) -> None:
        """Build a level for each of the plan's channels."""
        widths = pairwise((1, *plan.channels))
        super().__init__(*(unit(plan, before, after, stride=2) for before, after in widths))
        self.plan = plan

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the last level's map."""
        require_dims(x, self.plan)
        return super().forward(x)


class PooledStrided(Strided):
    """`(B, 1, X, Y[, Z])` -> `(B, channels[-1])`: the last map, averaged over space."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the vector."""
        return pooled(super().forward(x))


def vector_encoders(modalities: Mapping[str, Modality], plan: Plan) -> nn.ModuleDict:
    """Return a network for each modality, owned by it: an image or a table -> `(B, plan.channels[-1])`."""
    images = {modality_group(name): PooledStrided(plan) for name in images_of(modalities)}
    return nn.ModuleDict(images | dict(table_encoders(modalities, plan.channels[-1]).items()))


def table_encoders(modalities: Mapping[str, Modality], size: int) -> nn.ModuleDict:
    """Return one small network for each table, owned by it: `(B, F)` -> `(B, size)`."""
    widths = {name: modalities[name].features for name in tables_of(modalities)}
    return nn.ModuleDict({modality_group(name): _encoder(width, size) for name, width in widths.items()})


def encoded(encoders: nn.ModuleDict, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
    """Run the encoder of every modality that has one here and that anybody has."""
    groups = {name: modality_group(name) for name in seen}
    return {n: encoders[g](seen[n].x) for n, g in groups.items() if g in encoders and seen[n].anybody}


def _encoder(features: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, size), nn.ReLU(), nn.Linear(size, size))
