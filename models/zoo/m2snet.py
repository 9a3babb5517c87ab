"""M2SNet: what two scales of a network say differently, in place of what they say.

    Zhao, Jia, Pang et al.: M2SNet: Multi-scale in Multi-scale Subtraction Network for Medical Image
    Segmentation. arXiv 2303.10894 (code: github.com/Xiaoqi-Zhao-DLUT/MSNet-M2SNet).

    f_l              the encoder's map of level l, at one width
    d(A, B)          unit(|A - B| + |s3(A) - s3(B)| + |s5(A) - s5(B)|), A being upsampled to B's size
    s_k              the sum over k voxels along each axis and over all channels, a norm, a ReLU; a sum has
                     nothing to learn, so nothing to send
    D_1[l] = d(f_(l+1), f_l)      D_(n+1)[l] = d(D_n[l+1], D_n[l])         a triangle of differences
    g_l = unit(sum over n of D_n[l])       o_l = unit(up(o_(l+1)) + g_l)

Each modality has an encoder of its own and f_l is the mean over what a case has (`encoders_unet`); the
objective is `structure`.

Departures: small, a U-Net's encoder in place of Res2Net-50, GroupNorm for BatchNorm, nearest-neighbour
upsampling; the deepest difference goes through a convolution as the others do, and the last none more.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.fits import need_outlines
from models.unet import Channels, Dims, Groups, Plan, norm, unit, windowed
from models.zoo.encoders_unet import EncodersUNet
from protocol.recipe import Head, Modality

_WINDOWS = (3, 5)


class Subtraction(nn.Module):
    """Maps `(B, C, X/2, ...)` and `(B, C, X, ...)` -> where they differ, `(B, C, X, ...)`."""

    def __init__(self, plan: Plan) -> None:
        """Build for maps of the finest level's width."""
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2)
        self.unit = unit(plan, plan.channels[0], plan.channels[0])

    def forward(self, deep: Tensor, fine: Tensor, sums: Iterable[nn.Module]) -> Tensor:
        """Subtract voxel by voxel, and sum by sum of the `sums` that all subtractions share."""
        raised = self.upsample(deep)
        return self.unit(sum(((look(raised) - look(fine)).abs() for look in sums), (raised - fine).abs()))


class Summed(nn.Module):
    """`(B, C, X, Y[, Z])` -> sums over `window` voxels along each axis and all channels, normalised."""

    def __init__(self, plan: Plan, window: int) -> None:
        """Take an odd window."""
        super().__init__()
        self.window, self.norm = window, norm(plan.channels[0], plan.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same for every channel, but for what the norm has learned."""
        return torch.relu(self.norm(windowed(x.sum(1, keepdim=True), self.window).expand_as(x).contiguous()))


class Differences(nn.Module):
    """An encoder's maps, finest first -> one map `(B, channels[0], X, Y[, Z])`."""

    def __init__(self, plan: Plan) -> None:
        """Build the triangle: one subtraction fewer in every order."""
        super().__init__()
        width, levels = plan.channels[0], len(plan.channels)
        self.narrow = nn.ModuleList(unit(plan, channels, width) for channels in plan.channels[1:])
        self.sums = nn.ModuleList(Summed(plan, window) for window in _WINDOWS)
        self.orders = nn.ModuleList(
            nn.ModuleList(Subtraction(plan) for _ in range(count)) for count in range(levels - 1, 0, -1)
        )
        self.gather = nn.ModuleList(unit(plan, width, width) for _ in range(levels - 1))
        self.first = unit(plan, width, width)
        self.ups = nn.ModuleList(unit(plan, width, width) for _ in range(levels - 1))
        self.upsample = nn.Upsample(scale_factor=2)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Add up each level's differences, then climb from the deepest."""
        maps = [levels[0], *(narrow(x) for narrow, x in zip(self.narrow, levels[1:], strict=True))]
        x = self.first(maps[-1])
        totals = [gather(total) for gather, total in zip(self.gather, self.totals(maps), strict=True)]
        for up, total in zip(self.ups, reversed(totals), strict=True):
            x = up(self.upsample(x) + total)
        return x

    def totals(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of all orders' differences of each level but the deepest."""
        totals = [torch.zeros_like(x) for x in maps[:-1]]
        for order in self.orders:
            maps = [d(deep, fine, self.sums) for d, (fine, deep) in zip(order, pairwise(maps), strict=True)]  # pyright: ignore[reportArgumentType]
            for level, found in enumerate(maps):
                totals[level] = totals[level] + found
        return totals


def m2snet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    groups: Groups = 8,
    dims: Dims = 2,
) -> EncodersUNet:
    """Build it.

    Args:
        modalities: images alone.
        heads: segmentations.
        channels: a level from the finest, whose width the differences have.
        groups: the most groups of a norm.
        dims: dimensions of the images.
    """
    need_outlines(modalities, heads, "m2snet")
    if len(channels) < 2:  # noqa: PLR2004 - a difference is one of two
        raise ValueError("channels expected two entries or more: scales are subtracted from one another")
    return EncodersUNet(modalities, heads, Plan(dims, channels, groups), Differences)
