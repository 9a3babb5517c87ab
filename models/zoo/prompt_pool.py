"""An absent modality's features are stood in for by prompts, mixed as what is present suggests.

    Wang, Zhang, Lee, et al.: Learning to Prompt for Continual Learning. CVPR 2022: a pool of prompts, and
    keys by which an input finds its own. Lee, Tsai, Chiu, Lee: Multimodal Prompting with Missing Modalities
    for Visual Recognition. CVPR 2023: prompts that say what is missing.

    f_m      encoder_m(x_m), one map a scale                           belongs to modality m
    q        mean over the present m of f_m at the deepest scale, averaged over space
    a        softmax over the pool of  keys q
    p_m      sum over the pool of  a_i prompt_m,i, one vector a scale
    logits   head(decoder(mean over all m of f_m, or p_m at every place where m is absent))

Keys and prompts are shared: who stands in for FLAIR is learned where FLAIR is missing, or hidden by
`modality_dropout`. A pool of one prompt is a mask token. To compare with, `filler: zero` puts zeros, and
`mean` the mean of what is present, which is `encoders_unet`.

Departures: features are filled in a convolutional network, where the papers prompt a transformer; prompts are
mixed by softmax, not chosen by rank, so keys need no loss of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import masked_mean
from models.heads import map_heads, predictions
from models.masking import Seen, rows
from models.unet import Channels, Decoder, Dims, Encoder, Groups, Plan, cropped, padded, pooled
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality
from protocol.typed import one_of

Filler = Callable[[Sequence[Tensor], int], Sequence[Tensor]]
"""Means of what is present, a scale each, and the modality's place in the recipe -> what stands in for it.

A tensor a scale, of the means' shape or broadcast to it.
"""


class PromptPool(MultiModal):
    """Encoders by modality, their mean at each scale after filling, one decoder."""

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan, filler: Filler
    ) -> None:
        """Take what fills in."""
        super().__init__(modalities)
        self.plan, self.filler = plan, filler
        owners = [modality_group(name) for name in self.modalities]
        self.encoders = nn.ModuleDict({owner: Encoder(plan, 1) for owner in owners})
        self.decoder = Decoder(plan)
        self.maps = map_heads(heads, plan.dims, plan.channels[0])

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        images = {name: padded(each.x, self.plan) for name, each in seen.items()}
        found = {n: self.encoders[modality_group(n)](images[n]) for n, each in seen.items() if each.anybody}
        image = images[self.modalities[0]]
        means: list[Tensor] = []
        for level, channels in enumerate(self.plan.channels):
            shape = (len(image), channels, *(size >> level for size in image.shape[2:]))
            means.append(masked_mean({name: maps[level] for name, maps in found.items()}, seen, shape))
        decoded = self.decoder(self._fused(found, means, seen))
        return predictions(self.maps, cropped(decoded, next(iter(seen.values())).x))

    def _fused(
        self, found: Mapping[str, Sequence[Tensor]], means: Sequence[Tensor], seen: Mapping[str, Seen]
    ) -> list[Tensor]:
        """Return the mean over all modalities at each scale, those that are absent filled in."""
        filled: list[Sequence[Tensor]] = []
        for place, (name, each) in enumerate(seen.items()):
            maps = found.get(name, means)  # of nobody: any will do, no row of it stays
            if not each.everybody:
                instead = self.filler(means, place)
                maps = [torch.where(rows(each.has, x), x, y) for x, y in zip(maps, instead, strict=True)]
            filled.append(maps)
        return [torch.stack(maps).mean(0) for maps in zip(*filled, strict=True)]


class Pool(nn.Module):
    """Keys that read what is present, and prompts for each modality."""

    def __init__(self, plan: Plan, modalities: int, prompts: int) -> None:
        """Build `prompts` of them for each modality, a vector of all scales' channels each."""
        super().__init__()
        self._channels = plan.channels
        self.keys = nn.Linear(plan.channels[-1], prompts, bias=False)
        prompt = partial(nn.Linear, prompts, sum(plan.channels), bias=False)
        self.prompts = nn.ModuleList(prompt() for _ in range(modalities))

    def forward(self, means: Sequence[Tensor], place: int) -> list[Tensor]:
        """Return `(B, C, 1, 1[, 1])` a scale."""
        shares = self.keys(pooled(means[-1])).softmax(1)  # (B, P)
        mixed = self.prompts[place](shares)
        ones = [1] * (means[-1].ndim - 2)
        return [part.unflatten(1, (-1, *ones)) for part in mixed.split(self._channels, 1)]


def zero(means: Sequence[Tensor], place: int) -> list[Tensor]:
    """Return zeros."""
    del place
    return [mean.new_zeros(()) for mean in means]


def mean(means: Sequence[Tensor], place: int) -> Sequence[Tensor]:
    """Return the mean of what is present."""
    del place
    return means


def prompt_pool(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    filler: Annotated[str, one_of("pool", "zero", "mean")] = "pool",
    prompts: Count = 8,
    groups: Groups = 8,
    dims: Dims = 2,
) -> PromptPool:
    """Build it.

    Args:
        modalities: images alone.
        heads: segmentations.
        channels: a level from the finest.
        filler: what stands in for an absent modality.
        prompts: of each modality in the pool; 1 is a mask token.
        groups: the most groups of a norm.
        dims: dimensions of the images.
    """
    need_outlines(modalities, heads, "prompt_pool")
    plan = Plan(dims, channels, groups)
    fill = {"zero": zero, "mean": mean}.get(filler) or Pool(plan, len(modalities), prompts)
    return PromptPool(modalities, heads, plan, fill)
