"""Which modalities are images or tables, and from one table to a vector."""

from collections.abc import Mapping

from torch import Tensor, nn

from models.masking import Seen
from protocol.groups import modality_group
from protocol.recipe import Modality


def images_of(modalities: Mapping[str, Modality]) -> tuple[str, ...]:
    """Return the names of the images, in the recipe's order."""
    return tuple(name for name, modality in modalities.items() if modality.kind == "image")


def tables_of(modalities: Mapping[str, Modality]) -> tuple[str, ...]:
    """Return the names of the tables, in the recipe's order."""
    return tuple(name for name, modality in modalities.items() if modality.kind == "table")


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
