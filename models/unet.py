"""The blocks of a U-Net, for slices and for volumes (Ronneberger et al., MICCAI 2015).

    Encoder    image                (B, I, X, Y[, Z])       ->  one map a level, each half as wide
    Decoder    those maps, deepest first upsampled and joined  ->  (B, channels[0], X, Y[, Z])

Each level is twice: 3x3 convolution, GroupNorm, ReLU. Convolutions have one set of weights;
norms come in one set per *owner*, and a pass says whose it uses. With one owner that is an
ordinary U-Net; with the modalities as owners it is the private norm of `parallel_unet`.

Chosen so that every row's gradient can be had on its own, and repeated: GroupNorm instead of
BatchNorm, nothing in place, nearest-neighbour upsampling (the gradient of the linear kind is
summed in no fixed order on a GPU).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from protocol.errors import RecipeError
from protocol.groups import SHARED
from protocol.typed import Rule

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # one dimension: a signal's
_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE = {2: functional.avg_pool2d, 3: functional.avg_pool3d}

Dims = Annotated[int, Rule("2 or 3", lambda value: value in AVERAGE)]
Groups = Annotated[int, Rule(">= 1", lambda value: value >= 1)]
Channels = Annotated[
    tuple[int, ...], Rule("with one entry or more, each >= 2", lambda value: bool(value) and min(value) > 1)
]


@dataclass(frozen=True)
class Plan:
    """Spatial dimensions, channels a level from the finest, and the most groups of a norm."""

    dims: int
    channels: tuple[int, ...]
    groups: int


class Encoder(nn.Module):
    """Image -> one map a level: `(B, channels[l], X / 2^l, Y / 2^l[, Z / 2^l])`."""

    def __init__(self, plan: Plan, inputs: int, owners: Iterable[str] = (SHARED,)) -> None:
        """Take the channels of the input and whose norms there are."""
        super().__init__()
        owners = tuple(owners)
        before = (inputs, *plan.channels[:-1])
        self.blocks = nn.ModuleList(
            _Block(plan, i, o, owners) for i, o in zip(before, plan.channels, strict=True)
        )

    def forward(self, x: Tensor, owner: str = SHARED) -> list[Tensor]:
        """Return the maps from the finest, `x` being `padded`."""
        levels: list[Tensor] = []
        for place in range(len(self.blocks)):
            levels.append(self.level(place, levels[-1] if place else x, owner))
        return levels

    def level(self, place: int, x: Tensor, owner: str = SHARED) -> Tensor:
        """Return the map of level `place`, 0 the finest, from the level before; the first from the image."""
        return self.blocks[place](halved(x) if place else x, owner)


class Decoder(nn.Module):
    """An encoder's maps -> one map of the finest width: `(B, channels[0], X, Y[, Z])`."""

    def __init__(self, plan: Plan, owners: Iterable[str] = (SHARED,)) -> None:
        """Take whose norms there are."""
        super().__init__()
        owners = tuple(owners)
        finer, coarser = plan.channels[:-1], plan.channels[1:]
        self.blocks = nn.ModuleList(
            _Block(plan, c + f, f, owners) for f, c in zip(reversed(finer), reversed(coarser), strict=True)
        )
        self.upsample = nn.Upsample(scale_factor=2)

    def forward(self, levels: Sequence[Tensor], owner: str = SHARED) -> Tensor:
        """Return the finest map from the maps of `levels`, finest first."""
        x = levels[-1]
        for block, skip in zip(self.blocks, reversed(levels[:-1]), strict=True):
            x = block(torch.cat([self.upsample(x), skip], 1), owner)
        return x


class _Block(nn.Module):
    def __init__(self, plan: Plan, inputs: int, outputs: int, owners: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(plan, i, outputs, owners) for i in (inputs, outputs))

    def forward(self, x: Tensor, owner: str) -> Tensor:
        for layer in self.layers:
            x = layer(x, owner)
        return x


class _Layer(nn.Module):
    def __init__(self, plan: Plan, inputs: int, outputs: int, owners: tuple[str, ...]) -> None:
        super().__init__()
        self.convolution = CONVOLUTION[plan.dims](inputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleDict({owner: norm(outputs, plan.groups) for owner in owners})

    def forward(self, x: Tensor, owner: str) -> Tensor:
        return torch.relu(self.norms[owner](self.convolution(x)))


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most `groups` equal groups.

    Two channels or more in each: one case with a 1x1 map would otherwise leave a single
    value, which has no variance, and PyTorch refuses that.
    """
    most = max(g for g in range(1, groups + 1) if channels % g == 0 and channels // g > 1)
    return nn.GroupNorm(most, channels)


def unit(
    plan: Plan,
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, ...] = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """Return a convolution that keeps the size of its image (but for `stride`), a norm, and a ReLU."""
    sides = (kernel,) * plan.dims if isinstance(kernel, int) else kernel
    padding = tuple(dilation * (side - 1) // 2 for side in sides)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "bias": False}
    layer = CONVOLUTION[plan.dims](inputs, outputs, cast("Any", sides), **how)
    return nn.Sequential(layer, norm(outputs, plan.groups), nn.ReLU())


def halved(x: Tensor) -> Tensor:
    """Take the largest of every two voxels along each axis of `(B, C, X, Y[, Z])`."""
    return _POOL[x.ndim - 2](x, 2)


def windowed(x: Tensor, window: int) -> Tensor:
    """Sum `(B, C, X, Y[, Z])` over an odd `window` of voxels along each axis, zeros around the image."""
    dims = x.ndim - 2
    framed = functional.pad(x, [window // 2] * 2 * dims)  # the pool's own frame may not exceed the image
    return window**dims * AVERAGE[dims](framed, window, 1)


def require_dims(x: Tensor, plan: Plan) -> None:
    """Refuse images `(B, I, X, Y[, Z])` of other dimensions than the recipe says."""
    if x.ndim != plan.dims + 2:
        raise RecipeError(f"model.dims: {plan.dims}, but the images have {x.ndim - 2} dimensions")


def padded(x: Tensor, plan: Plan) -> Tensor:
    """Append zeros to `(B, I, X, Y[, Z])` until every level halves evenly; mostly `x` itself."""
    require_dims(x, plan)
    return extended(x, 2 ** (len(plan.channels) - 1))


def extended(x: Tensor, multiple: int | tuple[int, ...]) -> Tensor:
    """Append zeros to `(B, I, X, Y[, Z])` until every side is a multiple of `multiple`, or of its own."""
    space = x.shape[2:]
    multiples = (multiple,) * len(space) if isinstance(multiple, int) else multiple
    missing = [-size % each for size, each in zip(reversed(space), reversed(multiples), strict=True)]
    if not any(missing):
        return x
    return functional.pad(x, [side for after in missing for side in (0, after)])


def cropped(x: Tensor, like: Tensor) -> Tensor:
    """Undo `padded` on a map of the finest level: the size of the image `like`."""
    return x if x.shape[2:] == like.shape[2:] else x[(..., *(slice(size) for size in like.shape[2:]))]


def pooled(x: Tensor) -> Tensor:
    """Average a map `(B, C, X, Y[, Z])` over space: `(B, C)`."""
    return x.flatten(2).mean(2)
