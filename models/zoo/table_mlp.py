"""A multi-layer perceptron on tables, with a first layer for each table.

    h = ReLU(mean over the present tables of  W_m x_m + b_m)  ->  hidden layers  ->  one layer a head

With one table it is the ordinary perceptron.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import encoded
from models.fits import refuse_images, refuse_segmentation
from models.fusion import masked_mean
from models.heads import predictions, vector_heads
from models.masking import Seen
from protocol.groups import modality_group
from protocol.recipe import Head, Modality
from protocol.typed import Rule

Widths = Annotated[
    tuple[int, ...], Rule("with one entry or more, each >= 1", lambda value: bool(value) and min(value) > 0)
]


class TableMLP(MultiModal):
    """First layers by table, the rest shared."""

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], hidden: tuple[int, ...]
    ) -> None:
        """Build with layers of `hidden` widths before the output layers."""
        super().__init__(modalities)
        self.width = hidden[0]
        self.first = nn.ModuleDict(
            {modality_group(name): nn.Linear(each.features, self.width) for name, each in modalities.items()}
        )
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(hidden))
        self.heads = vector_heads(heads, hidden[-1])

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        cases = len(next(iter(seen.values())).x)
        x = torch.relu(masked_mean(encoded(self.first, seen), seen, (cases, self.width)))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return predictions(self.heads, x)


def table_mlp(
    modalities: Mapping[str, Modality], heads: Mapping[str, Head], *, hidden: Widths = (64, 64)
) -> TableMLP:
    """Build it: `hidden` widths, from the tables to the heads."""
    refuse_images(modalities, "table_mlp")
    refuse_segmentation(heads, "table_mlp")
    return TableMLP(modalities, heads, hidden)
