"""Views of a case: crops of its images, and patches that are hidden from whoever looks.

    crop       a part of every image of a case, the same part of each, brought to one size
    block      patches that lie together are hidden, the same in every modality
    one_whole  one modality is hidden altogether

All of it follows from numbers in [0, 1) that a case has drawn (`masking.uniforms`). Crops are DINO's (Caron
et al., ICCV 2021), blocks iBOT's (Zhou et al., ICLR 2022), a whole modality is MM-DINOv2's.
"""

import math

import torch
from torch import Tensor

_EVENLY = 0.5  # the chance of a block
_SHARES = (0.1, 0.5)  # of the patches that a block hides
_FLATTEST = 0.3  # one side of a block over another


def crop(images: Tensor, numbers: Tensor, shares: tuple[float, float], size: tuple[int, ...]) -> Tensor:
    """Cut a part out of each case's images `(B, M, X, Y[, Z])` and bring it to `size`: `(B, M, *size)`.

    Values between voxels are linear between them, along each axis in turn.
    `numbers` `(B, 1 + axes)`: how much of the image, between both `shares`, and from where along each axis.
    """
    least, most = shares
    numbers = numbers.to(images.dtype)
    side = (least + numbers[:, :1] * (most - least)) ** (1 / len(size))  # (B, 1), of the image's own
    for axis, length in enumerate(size, start=2):
        middles = (torch.arange(length, device=images.device) + 0.5) / length
        first = (1 - side) * numbers[:, axis - 1, None]
        images = _read_at(images, axis, first + side * middles)
    return images


def _read_at(images: Tensor, axis: int, places: Tensor) -> Tensor:
    """Read each case's images along `axis` at `places` `(B, L)`, from 0, its first edge, to 1, its last."""
    voxels = images.shape[axis]
    place = (places * voxels - 0.5).clamp(0, voxels - 1)[:, None]  # (B, 1, L), 0 is a first voxel's middle
    each = torch.arange(voxels, device=images.device)[:, None]
    near = (1 - (place - each).abs()).clamp(min=0)  # (B, voxels, L), adds to one over voxels
    lines = images.movedim(axis, -1)
    return (lines.flatten(1, -2) @ near).unflatten(1, lines.shape[1:-1]).movedim(-1, axis)


def block(numbers: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Hide a block of a grid of patches in every second case: bool `(B, N)`.

    `numbers` `(B, 2 + 2 axes)`: whether, how many patches, how long along each axis, and where.
    """
    axes = len(grid)
    least, most = _SHARES
    share = least + numbers[:, 1:2] * (most - least)
    stretch = (numbers[:, 2 : 2 + axes] - 0.5) * -math.log(_FLATTEST)
    stretch = (stretch - stretch.mean(1, keepdim=True)).exp()  # (B, axes), of product one
    sides = ((share * math.prod(grid)) ** (1 / axes) * stretch).round()
    hidden = (numbers[:, 0] < _EVENLY).view(-1, *[1] * axes)
    for axis, length in enumerate(grid):
        side = sides[:, axis, None].clamp(1, length)
        first = (numbers[:, 2 + axes + axis, None] * (length - side + 1)).floor()
        place = torch.arange(length, device=numbers.device)
        along = (place >= first) & (place < first + side)  # (B, length)
        hidden = hidden & along.view(-1, *[length if each == axis else 1 for each in range(axes)])
    return hidden.flatten(1)


def one_whole(has: Tensor, numbers: Tensor) -> Tensor:
    """Choose one of the modalities of each case that has two or more: bool `(B, M)`.

    `has` bool `(B, M)`; the one of the largest of `numbers` `(B, M)` that it has.
    """
    drawn = torch.where(has, numbers, -1.0)
    return has & (drawn == drawn.amax(1, keepdim=True)) & (has.sum(1, keepdim=True) > 1)
