"""What stands in early fusion's channels where a case lacks an image.

    zero       zeros, which is the mean of images that are normalised
    mean       voxel by voxel the mean of those images that the case has
    other      the first of those that it has, in the recipe's order
    template   a picture of the modality, learned by the cases that lack it

A template is shared: whoever lacks a modality needs its template most, and trains it by using it. It is
learned from what else those cases show, and leaves as every other shared parameter does.

Elsewhere nothing need be filled: a branch is dropped (`models.fusion`), a mask token read (`models.tokens`).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.masking import Seen, rows
from models.tokens import Learned
from protocol.typed import one_of

Kind = Annotated[str, one_of("zero", "mean", "other", "template")]
SIDE = 16
"""Voxels of a template along each axis; it is as large as the images when it is used."""


class Template(nn.Module):
    """A learned picture of a modality, at first empty; as large as the images that it stands in for."""

    def __init__(self, dims: int, side: int) -> None:
        """Hold `side` voxels along each of `dims` axes."""
        super().__init__()
        self.shape = (side,) * dims
        self.picture = Learned(side**dims)
        nn.init.zeros_(self.picture.vector.weight)

    def forward(self, like: Tensor) -> Tensor:
        """Return one for each of the images `like` `(B, 1, X, Y[, Z])`, of their size."""
        picture = self.picture(len(like), 1).view(len(like), 1, *self.shape)
        return functional.interpolate(picture, like.shape[2:])


class Filler(nn.Module):
    """Puts images side by side, and something in the place of those that are absent."""

    def __init__(self, kind: str, dims: int, images: int) -> None:
        """Fill the places of so many images, of `dims` axes, as `kind` says."""
        super().__init__()
        self.kind = kind
        learned = images if kind == "template" else 0
        self.templates = nn.ModuleList(Template(dims, SIDE) for _ in range(learned))

    def forward(self, seen: Sequence[Seen]) -> Tensor:
        """Return `(B, images, X, Y[, Z])`; a case that has none of them gets zeros, or templates."""
        images = torch.cat([each.x for each in seen], 1)
        if self.kind == "zero" or all(each.everybody for each in seen):
            return images
        has = torch.stack([each.has for each in seen], 1)  # (B, images)
        here = has.view(*has.shape, *[1] * (images.ndim - 2))
        return torch.where(here, images, self._filling(images, has))

    def _filling(self, images: Tensor, has: Tensor) -> Tensor:
        """Return what is put in absent places, `(B, 1 or images, X, Y[, Z])`."""
        if self.kind == "template":
            return torch.cat([template(images[:, :1]) for template in self.templates], 1)
        if self.kind == "mean":
            number = has.sum(1, keepdim=True).clamp(min=1)
            return images.sum(1, keepdim=True) / rows(number[:, 0], images)
        first = has.int().argmax(1)  # of a case without images the first place, which is zeros
        return images[torch.arange(len(images), device=images.device), first].unsqueeze(1)
