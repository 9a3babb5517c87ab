"""What every model here is: modalities in, one tensor of logits a head out, and owners.

    model(batch)["tumour"]   (B, C, X, Y[, Z])   a segmentation's logits, one channel a class
    model(batch)["grade"]    (B, C)              a classification's; (B, 1) where it is binary
    model(batch)["risk"]     (B, 1)              a survival's log hazard
    model(batch)["scan"]     (B, 1)              a pretext's: the case's own loss (`prob_bind`: or more)

Who owns a parameter is read from its name. The submodule that belongs to a modality or a
head is *named after the group*, and everything below it is the group's:

    encoders.modality:flair.0.weight    ->  modality:flair
    heads.head:tumour.bias              ->  head:tumour
    encoder.blocks.1.layers.0.convolution.weight  ->  shared

(The colon also keeps a modality called `keys` or `type` apart from PyTorch's attributes.)

A model has no buffers: they would be state that no group carries, so BatchNorm is out.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.masking import Seen, visible
from protocol.batch import Batch
from protocol.groups import SHARED

_NORMS = (nn.GroupNorm, nn.LayerNorm)


class MultiModal(nn.Module, ABC):
    """A model of cases that may lack modalities; a subclass says how in `predict`."""

    pretexts: ClassVar[tuple[str, ...]] = ()
    """Objectives that its pretexts can have."""

    def __init__(self, modalities: Iterable[str]) -> None:
        """Take the recipe's modalities in its order, which is the order of `present`."""
        super().__init__()
        self.modalities = tuple(modalities)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return head -> logits; what stands in an absent modality's place is never read."""
        seen = visible(batch, self.modalities)
        return self.predict(seen) | self.pretext(seen, drawn(batch))

    @property
    def axes(self) -> int:
        """Spatial axes of its images, 2 or 3, by its convolutions; 0 where it has none."""
        return max(parameter.dim() for parameter in self.parameters()) - 2

    @abstractmethod
    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits from what may be seen of every modality.

        Also pretext -> `(B, 1)` where it leaves nothing to chance and reads the same features: they are
        then computed once.
        """

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return pretext -> `(B, 1)`, what each case costs by itself; chance follows from `draw` `(B,)`.

        Pretexts that `predict` gives are not among them.
        """
        return {}

    @property
    def told(self) -> tuple[str, ...]:
        """Pretexts whose target is what a teacher says: a copy of this network, see `client.teaching`."""
        return ()

    def tell(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the pretexts of `told` -> what this network, as a teacher, says of each case, `(B, ...)`."""
        return {}

    def group_of(self, name: str) -> str:
        """Return the group that owns the parameter `name`."""
        return next((part for part in name.split(".") if ":" in part), SHARED)

    def kind_of(self, name: str) -> Literal["norm", "head", "other"]:
        """Return what the parameter `name` is part of: a normalisation, an output layer, or else."""
        if isinstance(self.get_submodule(name.rpartition(".")[0]), _NORMS):
            return "norm"
        return "head" if self.group_of(name).startswith("head:") else "other"


def drawn(batch: Batch) -> Tensor:
    """Return the number that each case has drawn, int64 `(B,)`."""
    return batch.present.new_zeros(len(batch), dtype=torch.int64) if batch.draw is None else batch.draw
