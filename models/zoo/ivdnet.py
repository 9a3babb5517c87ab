"""IVD-Net: a stream for each modality, each of which hears all the others at every scale.

    Dolz, Desrosiers, Ben Ayed: IVD-Net: Intervertebral Disc Localization and Segmentation in MRI with a
    Multi-modal UNet. CSI workshop, MICCAI 2018 (code: github.com/josedolz/IVD-Net).

    f_m      stream m's map of one scale:  block(x_m), and below  block(join over all k of T_k)
    T_k      what stream k passes down:  its pooled f_k, beside what it was passed itself, at half size
    bridge   block(join of the last T_k)
    up       block(mean of the map from below, upsampled, and the f_m)
    block    convolution; five branches of 1, 3, 5 voxels, and 3 dilated by 2 and 4, side by side, brought
             back to one width and added; convolution. In the streams each branch is an axis at a time.

Joins and means run over the modalities that a case has (`fusion`). A stream belongs to its modality, with
all by which it hears others; so does what the bridge hears of it.

Departures: "at half size" is a maximum like the rest of what is passed down; the released code cuts out the
centre (`carry: cropped`), which lays the middle of the scan over all of it. GroupNorm for BatchNorm.
Upsampling repeats voxels before a convolution, where the code's convolution is transposed.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import Joined, masked_mean
from models.heads import map_heads, predictions
from models.masking import Seen, rows
from models.unet import CONVOLUTION, Channels, Dims, Groups, Plan, cropped, halved, norm, padded, unit
from protocol.groups import modality_group
from protocol.recipe import Head, Modality
from protocol.typed import one_of

_BRANCHES = ((1, 1), (3, 1), (5, 1), (3, 2), (3, 4))
"""Kernel and dilation."""


class IVDNet(MultiModal):
    """Hyper-dense streams, one bridge, one decoder."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        carried: Callable[[Tensor], Tensor],
    ) -> None:
        """Take widths from the finest scale; the last is the bridge's."""
        super().__init__(modalities)
        self.plan, self._carried = plan, carried
        *scales, bridge = plan.channels
        passed = list(accumulate(scales))  # channels of T_k
        owners = [modality_group(name) for name in self.modalities]
        first = [Block(plan, _convolution(plan, 1, scales[0]), scales[0], apart=True) for _ in owners]
        self.first = nn.ModuleDict(dict(zip(owners, first, strict=True)))
        self.hearing = nn.ModuleList(
            nn.ModuleDict({owner: self._hearing(before, here, apart=True) for owner in owners})
            for before, here in zip(passed, scales[1:], strict=False)
        )
        self.bridge = self._hearing(passed[-1], bridge, apart=False)
        self.ups = nn.ModuleList(Up(plan, below, here) for below, here in pairwise(reversed(plan.channels)))
        self.maps = map_heads(heads, plan.dims, plan.channels[0])

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        images = {n: padded(each.x, self.plan) for n, each in seen.items() if each.anybody}
        scales = [{n: self.first[modality_group(n)](x) for n, x in images.items()}]
        passed = {n: halved(x) for n, x in scales[0].items()}
        for scale, blocks in enumerate(self.hearing, 1):
            shape = self._shape(seen, scale)
            maps = {n: blocks[modality_group(n)](passed, seen, shape) for n in passed}  # pyright: ignore[reportIndexIssue]
            passed = {n: torch.cat([halved(x), self._carried(passed[n])], 1) for n, x in maps.items()}
            scales.append(maps)
        x = self.bridge(passed, seen, self._shape(seen, len(self.ups)))
        for up, maps in zip(self.ups, reversed(scales), strict=True):
            x = up(x, maps, seen)
        return predictions(self.maps, cropped(x, next(iter(seen.values())).x))

    def _hearing(self, inputs: int, channels: int, *, apart: bool) -> "Block":
        join = Joined(self.modalities, partial(_convolution, self.plan, inputs, channels))
        return Block(self.plan, join, channels, apart=apart)

    def _shape(self, seen: Mapping[str, Seen], scale: int) -> tuple[int, ...]:
        image = padded(next(iter(seen.values())).x, self.plan)
        return len(image), self.plan.channels[scale], *(size >> scale for size in image.shape[2:])


class Block(nn.Module):
    """The extended inception block: `entry`'s map -> `(B, channels, X, Y[, Z])`."""

    def __init__(self, plan: Plan, entry: nn.Module, channels: int, *, apart: bool) -> None:
        """Take what comes first, and whether branches go an axis at a time."""
        super().__init__()
        self.entry = entry
        self.first = nn.Sequential(norm(channels, plan.groups), nn.ReLU())
        branch = _axes if apart else unit
        self.branches = nn.ModuleList(branch(plan, channels, channels, k, dilation=d) for k, d in _BRANCHES)
        self.mix = CONVOLUTION[plan.dims](len(_BRANCHES) * channels, channels, 1)
        self.last = unit(plan, channels, channels)

    def forward(self, *heard: object) -> Tensor:
        """Pass `heard` to the entry."""
        x = self.first(self.entry(*heard))
        return self.last(x + self.mix(torch.cat([branch(x) for branch in self.branches], 1)))


class Up(nn.Module):
    """A map from below `(B, below, X/2, ...)` and the streams' -> `(B, here, X, ...)`."""

    def __init__(self, plan: Plan, below: int, here: int) -> None:
        """Take channels below and here."""
        super().__init__()
        self.raised = nn.Sequential(nn.Upsample(scale_factor=2), unit(plan, below, here))
        self.block = Block(plan, _convolution(plan, here, here), here, apart=False)

    def forward(self, below: Tensor, maps: Mapping[str, Tensor], seen: Mapping[str, Seen]) -> Tensor:
        """Average what comes from below with the maps of the modalities that each case has."""
        x = self.raised(below)
        held = rows(torch.stack([each.has for each in seen.values()]).sum(0), x)
        return self.block((x + held * masked_mean(maps, seen, x.shape)) / (1 + held))


def centre(x: Tensor) -> Tensor:
    """Cut the middle half of every axis out of `(B, C, X, Y[, Z])`, sides even."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, x.shape[axis] // 4, x.shape[axis] // 2)
    return x.contiguous()


_CARRY = {"pooled": halved, "cropped": centre}


def _convolution(plan: Plan, inputs: int, outputs: int) -> nn.Module:
    return CONVOLUTION[plan.dims](inputs, outputs, 3, padding=1, bias=False)


def _axes(plan: Plan, inputs: int, outputs: int, kernel: int, *, dilation: int) -> nn.Sequential:
    """A `unit` for each axis, or one where there is but a voxel to look at."""
    if kernel == 1:
        return unit(plan, inputs, outputs, 1)
    sides = [tuple(kernel if each == axis else 1 for each in range(plan.dims)) for axis in range(plan.dims)]
    widths: Iterable[int] = (inputs, *[outputs] * (plan.dims - 1))
    return nn.Sequential(
        *(unit(plan, i, outputs, k, dilation=dilation) for i, k in zip(widths, sides, strict=True))
    )


def ivdnet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    groups: Groups = 8,
    dims: Dims = 2,
    carry: Annotated[str, one_of(*_CARRY)] = "pooled",
) -> IVDNet:
    """Build it.

    Args:
        modalities: images alone.
        heads: segmentations.
        channels: a scale from the finest, the last the bridge's; the paper's are 32 to 512.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        carry: what a stream was passed goes on as a maximum (`pooled`) or its centre (`cropped`).
    """
    need_outlines(modalities, heads, "ivdnet")
    if len(channels) < 2:  # noqa: PLR2004 - a scale and the bridge
        raise ValueError("channels expected two entries or more, the last of which is the bridge's")
    return IVDNet(modalities, heads, Plan(dims, channels, groups), _CARRY[carry])
