"""MMSFormer: a pyramid of attention for each modality, fused at every stage.

    Reza, Prater-Bennette, Asif: MMSFormer: Multimodal Transformer for Material and Semantic Segmentation.
    IEEE Open Journal of Signal Processing 2024 (code: github.com/CSIPlab/MMSFormer).

    f_m,s   MiT_m(x_m), one map a stage s
    X_s     W_s [f_1,s; ...; f_M,s] + b_s
    F_s     mixed(X_s) + channels(X_s)
    logits  head(perceptron of all F_s, side by side at the first stage's size)

    mixed     1x1; 1x1, norm; plus depth-wise convolutions of 3, 5 and 7; 1x1, norm, GELU; 1x1
    channels  squeeze and excitation: every channel times what a small perceptron makes of all their means

Encoders never hear what is fused. The paper needs all modalities; here W_s runs over those that a case
has (`fusion.Joined`), so that encoder and W_s,m belong to modality m.

Departures: one block a stage and small widths, no downloaded weights, an image is one channel (there three
copies). GroupNorm for all norms. No drop-path. What is smaller is enlarged by repetition, there bilinearly.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import Joined
from models.heads import map_heads, predictions
from models.masking import Seen
from models.transformers import MixTransformer, Stages, depthwise
from models.unet import (
    CONVOLUTION,
    Channels,
    Dims,
    Groups,
    Plan,
    cropped,
    extended,
    norm,
    pooled,
    require_dims,
    unit,
)
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality
from protocol.typed import Rule

_REDUCTION = 16  # of squeeze and excitation
Counts = Annotated[tuple[Count, ...], Rule("with one entry or more", lambda value: len(value) > 0)]


class MMSFormer(MultiModal):
    """Encoders by modality, a fusion block a stage, SegFormer's decoder."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        stages: Stages,
        width: int,
    ) -> None:
        """Take the encoders' stages and the decoder's width."""
        super().__init__(modalities)
        self.stages, plan = stages, stages.plan
        owners = [modality_group(name) for name in self.modalities]
        self.encoders = nn.ModuleDict({owner: MixTransformer(stages) for owner in owners})
        layer = CONVOLUTION[plan.dims]
        self.joins = nn.ModuleList(Joined(self.modalities, partial(layer, c, c, 1)) for c in plan.channels)
        self.mixed = nn.ModuleList(Mixed(plan, size) for size in plan.channels)
        self.channels = nn.ModuleList(SqueezeExcite(size) for size in plan.channels)
        self.narrow = nn.ModuleList(layer(size, width, 1) for size in plan.channels)
        self.decoder = unit(plan, width * len(plan.channels), width, 1)
        self.maps = map_heads(heads, plan.dims, width)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        image = next(iter(seen.values())).x
        require_dims(image, self.stages.plan)
        images = {n: extended(each.x, self.stages.multiple) for n, each in seen.items() if each.anybody}
        pyramids = {n: self.encoders[modality_group(n)](x) for n, x in images.items()}
        side = [-(-size // self.stages.multiple) * self.stages.multiple for size in image.shape[2:]]
        levels: list[Tensor] = []
        for stage, parts in enumerate(zip(self.joins, self.mixed, self.channels, self.narrow, strict=True)):
            join, mixed, channels, narrow = parts
            space = [size // (self.stages.stride << stage) for size in side]
            shape = (len(image), self.stages.plan.channels[stage], *space)
            x = join({n: maps[stage] for n, maps in pyramids.items()}, seen, shape)
            levels.append(_enlarged(narrow(mixed(x) + channels(x)), 1 << stage))
        decoded = self.decoder(torch.cat(levels, 1))
        return predictions(self.maps, cropped(_enlarged(decoded, self.stages.stride), image))


class Mixed(nn.Module):
    """A perceptron whose features look 3, 5 and 7 places wide at once: `(B, C, ...)` to the same."""

    def __init__(self, plan: Plan, size: int) -> None:
        """Build for `size` features."""
        super().__init__()
        layer = partial(CONVOLUTION[plan.dims], size, size, 1)
        self.first = nn.Sequential(layer(), layer(), norm(size, plan.groups))
        self.looks = nn.ModuleList(depthwise(plan.dims, size, side) for side in (3, 5, 7))
        self.last = nn.Sequential(layer(), norm(size, plan.groups), nn.GELU(), layer())

    def forward(self, x: Tensor) -> Tensor:
        """Take a map to a map of its shape."""
        x = self.first(x)
        return self.last(x + sum(look(x) for look in self.looks))


class SqueezeExcite(nn.Module):
    """Every channel times a number in (0, 1) that the means of all channels give (Hu et al., CVPR 2018)."""

    def __init__(self, size: int) -> None:
        """Build for `size` channels."""
        super().__init__()
        small = max(1, size // _REDUCTION)
        self.gate = nn.Sequential(nn.Linear(size, small), nn.ReLU(), nn.Linear(small, size), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Take a map `(B, C, ...)` to a map of its shape."""
        return x * self.gate(pooled(x)).view(*x.shape[:2], *[1] * (x.ndim - 2))


def _enlarged(x: Tensor, times: int) -> Tensor:
    # Also once: a layer's gradient must come back in one piece, not as a part of what is concatenated.
    return functional.interpolate(x, scale_factor=times)


def mmsformer(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 96),
    attention_heads: Counts = (1, 2, 4, 8),
    stride: Count = 4,
    width: Count = 32,
    groups: Groups = 8,
    dims: Dims = 2,
) -> MMSFormer:
    """Build it.

    Args:
        modalities: images alone.
        heads: segmentations.
        channels: features a stage from the finest; MiT-B1's are 64, 128, 320, 512.
        attention_heads: a stage, each a divisor of its channels.
        stride: voxels from one place of the first stage to the next; small images need less than 4.
        width: features of the decoder.
        groups: the most groups of a norm.
        dims: dimensions of the images.
    """
    need_outlines(modalities, heads, "mmsformer")
    if len(attention_heads) != len(channels):
        raise ValueError(f"attention_heads expected one number a stage, {len(channels)}")
    stages = Stages(Plan(dims, channels, groups), attention_heads, stride)
    return MMSFormer(modalities, heads, stages, width)
