"""One kernel for slices and for volumes (Cross-D convolution).

    Yavuz, Yang: Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting
    Operation. 2024 (arXiv 2411.02441; code: github.com/convergedmachine/Cross-D-Conv).

A kernel has three axes. A volume is convolved with it as ever; a slice with its middle plane, after the
kernel has been moved, case by case, by

    s = R^T (1, 1, 1),    R = I + theta K(k)

with an axis k and an angle theta, at most pi/4, that the slice itself gives (`Turn`). The paper multiplies
the kernel's Fourier transform by exp(-2 pi i sum(R f)), which is exactly that circular translation: along
each axis the matrix

    D[i, j] = d(i - j - s),    d(u) = (1 + 2 cos(2 pi u / 3)) / 3

(for a shift of 1, `numpy.roll`: an angle of 0 is not the identity). A moved kernel is a layer of its own
for each case, which no library clips; so here the kernel stays and what it reads is moved,

    sum_i x[p + i] (D K)[i]  =  sum_j (sum_i x[p + i] D[i, j]) K[j]

laid out as a volume of 3 x 3 x 3 readings for each pixel, and convolved with stride 3.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.unet import norm

_SIDE, _HIDDEN = 3, 16
_STEEPEST = math.pi / 4


class CrossConv(nn.Module):
    """`(B, I, X, Y[, Z])` -> `(B, O, X, Y[, Z])`, by one kernel `(O, I, 3, 3, 3)` for both.

    `owners` read slices, each with a `Turn` of its own; whoever reads volumes needs none.
    """

    def __init__(self, inputs: int, outputs: int, owners: Iterable[str]) -> None:
        super().__init__()
        self.whole = nn.Conv3d(inputs, outputs, _SIDE, padding=1, bias=False)
        self.across = nn.Conv3d(inputs, outputs, _SIDE, stride=_SIDE, bias=False)
        self.across.weight = self.whole.weight
        self.turns = nn.ModuleDict({owner: Turn(inputs) for owner in owners})

    def forward(self, x: Tensor, owner: str) -> Tensor:
        """Convolve images of `owner`; whether they are slices or volumes shows."""
        if x.ndim == _SIDE + 2:
            return self.whole(x)
        return self.across(readings(x, shift(*self.turns[owner](x)))).squeeze(4)


class Turn(nn.Module):
    """`(B, C, X, Y)` -> an axis `(B, 3)` of length 1 and an angle `(B,)`, within pi/4."""

    def __init__(self, channels: int) -> None:
        """Build two 1x1 convolutions."""
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, _HIDDEN, 1), nn.ReLU(), nn.Conv2d(_HIDDEN, 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take the mean of each of four maps, weighted by its own softmax."""
        maps = self.layers(x).flatten(2)  # (B, 4, X Y)
        found = (maps.softmax(2) * maps).sum(2)
        return functional.normalize(found[:, :3], dim=1), _STEEPEST * found[:, 3].tanh()


def shift(axis: Tensor, angle: Tensor) -> Tensor:
    """Return R^T (1, 1, 1) = (1, 1, 1) - theta (k x (1, 1, 1)), `(B, 3)`, in voxels along X, Y, Z."""
    ones = torch.ones_like(axis)
    return ones - angle[:, None] * torch.linalg.cross(axis, ones)


def readings(x: Tensor, shifts: Tensor) -> Tensor:
    """Return what each entry of a kernel moved by `shifts` `(B, 3)` reads around each pixel.

    `(B, C, X, Y)` -> `(B, C, 3 X, 3 Y, 3)`; beside the image stand zeros.
    """
    around = functional.pad(x, (1, 1, 1, 1)).unfold(2, _SIDE, 1).unfold(3, _SIDE, 1)  # (B, C, X, Y, 3, 3)
    along_x, along_y, along_z = translation(shifts).unbind(1)  # each (B, 3, 3)
    middle = along_z[:, _SIDE // 2]
    read = torch.einsum("bcxyij,bia,bjd,be->bcxayde", around, along_x, along_y, middle)
    return read.flatten(2, 3).flatten(3, 4)


def translation(shifts: Tensor) -> Tensor:
    """Return the matrices that move three places in a ring by `shifts` `(...)`: `(..., 3, 3)`."""
    places = torch.arange(_SIDE, device=shifts.device)
    apart = places[:, None] - places - shifts[..., None, None]
    return (1 + 2 * torch.cos(2 * math.pi / _SIDE * apart)) / _SIDE


class CrossLayer(nn.Module):
    """Cross-D convolution, GroupNorm of the owner's, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, owners: Iterable[str], flat: Iterable[str]
    ) -> None:
        """Take all owners, and those whose images are slices."""
        super().__init__()
        self.convolution = CrossConv(inputs, outputs, flat)
        self.norms = nn.ModuleDict({owner: norm(outputs, groups) for owner in owners})

    def forward(self, x: Tensor, owner: str) -> Tensor:
        """Return `(B, O, X, Y[, Z])`."""
        return torch.relu(self.norms[owner](self.convolution(x, owner)))
