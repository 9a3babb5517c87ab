"""A pyramid of attention over images, for slices and for volumes: the Mix Transformer of SegFormer.

    Xie, Wang, Yu, Anandkumar, Alvarez, Luo: SegFormer: Simple and Efficient Design for Semantic Segmentation
    with Transformers. NeurIPS 2021.

    MixTransformer   (B, 1, X, Y[, Z])  ->  one map a stage, (B, channels[s], X/stride/2^s, ...)
    Efficient        (B, C, ...)  ->  (B, C, ...)    every place reads places that a convolution has gathered
    MixPerceptron    (B, C, ...)  ->  (B, C, ...)    a perceptron that also looks at its neighbours

No positions are added: the neighbours' convolutions tell them. Blocks are pre-norm, each half is added.

Departure: GroupNorm over maps, where the paper has LayerNorm over the features of each place.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.tokens import Attention, as_map
from models.unet import CONVOLUTION, Plan, norm


@dataclass(frozen=True)
class Stages:
    """Channels a stage, attention heads a stage, and the first stage's stride."""

    plan: Plan
    heads: tuple[int, ...]
    stride: int

    @property
    def multiple(self) -> int:
        """What every side of an image must be a multiple of."""
        return self.stride << (len(self.plan.channels) - 1)


class MixTransformer(nn.Module):
    """Overlapping patches, then a block, stage after stage."""

    def __init__(self, stages: Stages) -> None:
        """Build one block a stage; the later the stage, the less attention must gather."""
        super().__init__()
        plan, widths = stages.plan, stages.plan.channels
        strides = (stages.stride, *[2] * (len(widths) - 1))
        self.embeddings = nn.ModuleList(
            Overlapping(plan, before, after, stride)
            for (before, after), stride in zip(pairwise((1, *widths)), strides, strict=True)
        )
        self.blocks = nn.ModuleList(
            MixBlock(plan, width, heads, 1 << (len(widths) - stage))
            for stage, (width, heads) in enumerate(zip(widths, stages.heads, strict=True), 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps from the finest; sides of `x` are multiples of `Stages.multiple`."""
        maps: list[Tensor] = []
        for embedding, block in zip(self.embeddings, self.blocks, strict=True):
            x = block(embedding(x))
            maps.append(x)
        return maps


class Overlapping(nn.Sequential):
    """Patches that overlap: a convolution wider than its stride (7 for 4, 3 for 2), and a norm."""

    def __init__(self, plan: Plan, inputs: int, outputs: int, stride: int) -> None:
        """Make maps that are `stride` times smaller along each axis."""
        convolution = CONVOLUTION[plan.dims](inputs, outputs, 2 * stride - 1, stride, stride - 1)
        super().__init__(convolution, norm(outputs, plan.groups))


class MixBlock(nn.Module):
    """Attention, then a perceptron; each on what is normalised, added."""

    def __init__(self, plan: Plan, size: int, heads: int, reduction: int) -> None:
        """Build for `size` features."""
        super().__init__()
        self.before = norm(size, plan.groups)
        self.attention = Efficient(plan, size, heads, reduction)
        self.between = norm(size, plan.groups)
        self.perceptron = MixPerceptron(plan.dims, size)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map to a map of its shape."""
        x = x + self.attention(self.before(x))
        return x + self.perceptron(self.between(x))


class Efficient(nn.Module):
    """Attention of all places to patches of `reduction` places a side, each patch one key and value."""

    def __init__(self, plan: Plan, size: int, heads: int, reduction: int) -> None:
        """Gather nothing where `reduction` is 1."""
        super().__init__()
        self.attention = Attention(size, heads)
        gather = CONVOLUTION[plan.dims](size, size, reduction, reduction)
        self.gather = nn.Sequential(gather, norm(size, plan.groups)) if reduction > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, sides multiples of the reduction, to a map of its shape."""
        context = as_tokens(self.gather(x))
        everything = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
        return as_map(self.attention(as_tokens(x), context, everything), tuple(x.shape[2:]))


class MixPerceptron(nn.Module):
    """Four times the width, where each feature also looks at its neighbours (depth-wise, 3 a side)."""

    def __init__(self, dims: int, size: int) -> None:
        """Build for `size` features."""
        super().__init__()
        self.widen = CONVOLUTION[dims](size, 4 * size, 1)
        self.look = depthwise(dims, 4 * size, 3)
        self.narrow = CONVOLUTION[dims](4 * size, size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map to a map of its shape."""
        return self.narrow(nn.functional.gelu(self.look(self.widen(x))))


def depthwise(dims: int, size: int, side: int) -> nn.Module:
    """Return a convolution of each feature by itself, `side` (odd) places wide."""
    return CONVOLUTION[dims](size, size, side, padding=side // 2, groups=size)


def as_tokens(x: Tensor) -> Tensor:
    """Lay a map `(B, D, *grid)` out as tokens `(B, N, D)`: the inverse of `tokens.as_map`."""
    return x.flatten(2).transpose(1, 2)
