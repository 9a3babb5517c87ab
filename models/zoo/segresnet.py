"""SegResNet: early fusion in a network of residual blocks, most of them in the encoder.

    Myronenko: 3D MRI Brain Tumor Segmentation Using Autoencoder Regularization. BrainLes 2018.

    block      x + convolution(relu(norm(convolution(relu(norm(x))))))
    encoder    a convolution, then 1, 2, 2, 4, 4 ... blocks a level, strided convolutions between levels
    decoder    a level: 1x1 convolution, upsampling, plus the encoder's map, one block

The cheapest of all to train privately: its rows' gradients cost a fifth beside the ordinary one where a
U-Net's cost as much again (`bench.privacy_cost`). Modalities are channels, zeros where one is absent.

Departures: no variational auto-encoder beside it (as in MONAI), no dropout, nearest-neighbour upsampling.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.fits import need_image
from models.unet import CONVOLUTION, Channels, Dims, Groups, Plan, norm
from models.zoo.early_fusion_unet import EarlyFusionUNet
from protocol.recipe import Head, Modality

_BLOCKS = (1, 2, 2, 4)
"""Of an encoder's levels, the last also of all deeper ones."""


class _Block(nn.Module):
    def __init__(self, plan: Plan, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels, plan.groups) for _ in range(2))
        self.convolutions = nn.ModuleList(_convolution(plan, channels, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for each, convolution in zip(self.norms, self.convolutions, strict=True):
            inner = convolution(torch.relu(each(inner)))
        return x + inner


class _Encoder(nn.Module):
    def __init__(self, plan: Plan, inputs: int) -> None:
        super().__init__()
        self.first = _convolution(plan, inputs, plan.channels[0])
        pairs = list(pairwise(plan.channels))
        self.down = nn.ModuleList(_convolution(plan, before, after, stride=2) for before, after in pairs)
        numbers = [_BLOCKS[min(level, len(_BLOCKS) - 1)] for level in range(len(plan.channels))]
        self.levels = nn.ModuleList(
            nn.Sequential(*(_Block(plan, channels) for _ in range(number)))
            for channels, number in zip(plan.channels, numbers, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.levels[0](self.first(x))]
        for down, level in zip(self.down, self.levels[1:], strict=True):
            maps.append(level(down(maps[-1])))
        return maps


class _Decoder(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        pairs = list(pairwise(plan.channels))[::-1]
        self.narrow = nn.ModuleList(_convolution(plan, deep, fine, size=1) for fine, deep in pairs)
        self.blocks = nn.ModuleList(_Block(plan, fine) for fine, _ in pairs)
        self.upsample = nn.Upsample(scale_factor=2)
        self.norm = norm(plan.channels[0], plan.groups)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        x = levels[-1]
        for narrow, block, skip in zip(self.narrow, self.blocks, reversed(levels[:-1]), strict=True):
            x = block(self.upsample(narrow(x)) + skip)
        return torch.relu(self.norm(x))


def _convolution(plan: Plan, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    return CONVOLUTION[plan.dims](inputs, outputs, size, stride, padding=size // 2, bias=False)


def segresnet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 3,
) -> EarlyFusionUNet:
    """Build it: `channels` a level, at most `groups` groups of a norm, `dims` of the images."""
    need_image(modalities, "segresnet")
    return EarlyFusionUNet(modalities, heads, Plan(dims, channels, groups), _Encoder, _Decoder)
