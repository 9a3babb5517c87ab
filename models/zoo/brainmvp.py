"""BrainMVP: one encoder for single images, and a learned template for each modality.

    Rui, Chen, Zhao et al.: Multi-modal Vision Pre-training for Medical Image Analysis. CVPR 2025
    (arXiv 2410.10604; code: github.com/shaohao011/BrainMVP).

    pretext   x = one image of the case, drawn; 4 of 5 blocks of it are replaced
              view A: by its modality's template          view B: by another image of the case
              10 |D(E(A)) - x|^2 + |D(E(B)) - x|^2, means over voxels; A alone where there is one image
    heads     on the mean over *all* modalities of E(x_m), at each scale, with the template of m where a
              case lacks m; a U-Net's decoder for segmentations

A template comes to look like its modality, and then stands in for it. So it belongs to nobody in particular:
it is shared, since whoever lacks a modality needs its template most, and trains it by using it. It is a
picture of many patients, and is clipped and noised as every parameter when training is private.

Departures: small; U-Net's encoder in place of UniFormer; templates are not rescaled where they are used, are
brought to an image's size whole, and lie on it as they are; no contrast between the views of a batch's
patients, which couples them; fine-tuning keeps the single-image encoder, where the paper reads modalities as
channels. The paper's channel cut-mix is `training.modality_dropout`: what is hidden becomes its template.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fillers import Template
from models.fits import need_image, refuse_tables
from models.heads import map_heads, predictions, pretexts_of, vector_heads
from models.masking import Seen, rows, uniforms
from models.tokens import grid_of
from models.unet import (
    CONVOLUTION,
    Channels,
    Decoder,
    Dims,
    Encoder,
    Groups,
    Plan,
    cropped,
    extended,
    norm,
    pooled,
    require_dims,
)
from protocol.groups import head_group
from protocol.recipe import Count, Head, Inside, Modality, NotNegative
from protocol.typed import Rule

Power = Annotated[int, Rule("1, 2, 4, 8 or 16", lambda value: value in {1, 2, 4, 8, 16})]


@dataclass(frozen=True)
class Replacing:
    """What a pretext does: blocks of `block` voxels a side, `share` of them; view A weighs `distilled`."""

    block: int
    share: float
    distilled: float


class BrainMVP(MultiModal):
    """One encoder, templates, a decoder for each pretext, U-Net's for segmentations."""

    pretexts = ("own",)

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        side: int,
        replacing: Replacing,
    ) -> None:
        """Build templates of `side` voxels along each axis, and only what the heads read."""
        super().__init__(modalities)
        self.plan, self.replacing = plan, replacing
        self.encoder = Encoder(plan, 1)
        self.templates = nn.ModuleList(Template(plan.dims, side) for _ in modalities)
        self.rebuilders = nn.ModuleDict({head_group(name): _Rebuild(plan) for name in pretexts_of(heads)})
        self.maps = map_heads(heads, plan.dims, plan.channels[0])
        self.decoder = Decoder(plan) if self.maps else None
        self.vectors = vector_heads(heads, plan.channels[-1])

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        if not (self.maps or self.vectors):
            return {}
        each = [self.encoder(x) for x in self._filled(seen)]
        levels = [torch.stack(level).mean(0) for level in zip(*each, strict=True)]
        outputs = predictions(self.vectors, pooled(levels[-1]))
        if self.decoder is not None:
            outputs |= predictions(self.maps, cropped(self.decoder(levels), next(iter(seen.values())).x))
        return outputs

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return pretext -> how badly an image of each case is rebuilt from its two views, `(B, 1)`."""
        if not self.rebuilders:
            return {}
        images = torch.stack([self._whole(each.x) for each in seen.values()], 1)  # (B, M, 1, X, Y[, Z])
        has = torch.stack([each.has for each in seen.values()], 1)
        one, other = pairs(has, uniforms(draw, has.shape[1]))
        every, image = torch.arange(len(has), device=has.device), images[:, 0]
        templates = torch.stack([template(image) for template in self.templates], 1)
        hidden = replaced(image, self.replacing, draw)
        true, filler = images[every, one], templates[every, one]
        views = [torch.where(hidden, by, true) for by in (filler, images[every, other])]
        return {
            group.removeprefix(head_group("")): self._paid(rebuild, views, true, has)[:, None]
            for group, rebuild in self.rebuilders.items()
        }

    def _paid(self, rebuild: nn.Module, views: list[Tensor], true: Tensor, has: Tensor) -> Tensor:
        first, second = ((rebuild(self.encoder(x)[-1]) - true).square().flatten(1).mean(1) for x in views)
        several, held = has.sum(1) > 1, has.any(1)
        return torch.where(held, self.replacing.distilled * first + torch.where(several, second, 0.0), 0.0)

    def _filled(self, seen: Mapping[str, Seen]) -> list[Tensor]:
        """Return every modality's image, or its template where a case lacks it."""
        images = [(each, self._whole(each.x)) for each in seen.values()]
        return [
            x if each.everybody else torch.where(rows(each.has, x), x, template(x))
            for (each, x), template in zip(images, self.templates, strict=True)
        ]

    def _whole(self, x: Tensor) -> Tensor:
        require_dims(x, self.plan)
        return extended(x, max(self.replacing.block, 1 << (len(self.plan.channels) - 1)))


def pairs(has: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return two modalities of each case, int64 `(B,)`; the second only counts where it has two.

    `has` bool `(B, M)`; those of the largest `numbers` `(B, M)` in [0, 1) that it has.
    """
    order = torch.where(has, numbers, -1.0).argsort(1, descending=True)
    return order[:, 0], order[:, min(1, has.shape[1] - 1)]


def replaced(image: Tensor, replacing: Replacing, draw: Tensor) -> Tensor:
    """Return which voxels of `(B, 1, X, Y[, Z])` are replaced: bool, by blocks, as each case draws."""
    grid = grid_of(image, replacing.block)
    blocks = torch.Size(grid).numel()
    # Of other numbers than those that choose the modalities, which would otherwise tell the first blocks.
    numbers = uniforms(draw, 2 * blocks)[:, blocks:]
    hidden = numbers.argsort(1).argsort(1) < round(replacing.share * blocks)
    return functional.interpolate(hidden.view(-1, 1, *grid).float(), scale_factor=replacing.block) > 0


class _Rebuild(nn.Module):
    """The deepest map -> the image `(B, 1, X, Y[, Z])`, without a look at finer maps."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        layer = CONVOLUTION[plan.dims]
        steps = [
            nn.Sequential(
                nn.Upsample(scale_factor=2), layer(i, o, 3, padding=1), norm(o, plan.groups), nn.ReLU()
            )
            for i, o in pairwise(reversed(plan.channels))
        ]
        self.layers = nn.Sequential(*steps, layer(plan.channels[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def brainmvp(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    groups: Groups = 8,
    dims: Dims = 2,
    side: Count = 32,
    block: Power = 4,
    share: Inside = 0.8,
    distilled: NotNegative = 10.0,
) -> BrainMVP:
    """Build it.

    Args:
        modalities: images alone.
        heads: what it predicts, and pretexts.
        channels: a level.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        side: voxels of a template along each axis; best an image's own.
        block: side of what a pretext replaces at once.
        share: of the blocks that it replaces.
        distilled: weight of the view by templates beside the one by other images.
    """
    need_image(modalities, "brainmvp")
    refuse_tables(modalities, "brainmvp")
    plan = Plan(dims, channels, groups)
    return BrainMVP(modalities, heads, plan, side, Replacing(block, share, distilled))
