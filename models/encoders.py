"""Which modalities are images or tables, from a table to a vector, and from an image to a map.

A signal, such as an electrocardiogram, is a table whose columns are its samples, lead after lead.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.masking import Seen
from models.unet import Plan, pooled, require_dims, unit
from protocol.errors import RecipeError
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


class PooledSignal(nn.Sequential):
    """`(B, leads * T)`, lead after lead -> `(B, channels[-1])`: the last level, averaged over time.

    Each level reads 7 samples of all channels at once and keeps every fourth place, with GroupNorm and ReLU:
    three levels see 127 samples, more than a heartbeat at 100 Hz.
    """

    def __init__(self, channels: Sequence[int], groups: int, leads: int) -> None:
        """Build a level for each of `channels`."""
        plan, widths = Plan(1, tuple(channels), groups), pairwise((leads, *channels))
        super().__init__(*(unit(plan, before, after, 7, stride=4) for before, after in widths))
        self.leads = leads

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the vector."""
        return pooled(super().forward(x.unflatten(1, (self.leads, -1))))


def signal_encoders(
    modalities: Mapping[str, Modality], leads: Mapping[str, int], plan: Plan
) -> dict[str, nn.Module]:
    """Return a network for each signal, owned by it; `leads`: modality -> how many leads the signal has."""
    for name, number in leads.items():
        features = modalities[name].features if name in tables_of(modalities) else 0
        if number < 1 or not features or features % number:
            raise RecipeError(
                f"model.signals.{name}: {number} leads of a signal are the columns of a table; "
                f"'{name}' has {features}, which must be a multiple"
            )
    return {modality_group(n): PooledSignal(plan.channels, plan.groups, each) for n, each in leads.items()}


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
