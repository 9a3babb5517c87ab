"""STU-Net: a residual U-Net whose weights fit any spacing and any size of image, to be handed on.

    Huang, Wang, Deng et al.: STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered
    by Large-Scale Supervised Pre-training. arXiv 2304.06716 (code: github.com/uni-medical/STU-Net).
    Handed on to 87 sets of data in SegBook (Ye et al., arXiv 2411.14525).

    block    relu(norm(convolution(relu(norm(convolution(x))))) + shortcut(x)), relu being leaky; the first
             convolution strides from level to level, where the shortcut is a convolution of one voxel
    up       voxels repeated, then a convolution of one voxel, beside the encoder's map, then a block
    exits    every level of the decoder outlines; all of them learn, the finest predicts

No kernel knows by how much its level is coarser (`in_plane`), so weights that were learned on thick slices
go on with thin ones. One network reads every modality by itself, and a case's maps are means over what it
has: what was learned from one modality is there for the next, and only heads begin anew.

Departures: small; the paper reads one modality. A norm is of two channels and not of one (InstanceNorm),
which a map of a single voxel would leave without a variance. Coarse outlines are held against the full mask,
and count as much as the finest.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import masked_mean
from models.heads import map_heads, predictions
from models.masking import Seen
from models.unet import CONVOLUTION, Channels, Dims, Groups, Plan, cropped, extended, norm, require_dims
from protocol.recipe import Head, Modality, Natural

Stride = tuple[int, ...]


class STUNet(MultiModal):
    """One encoder for all modalities, means at every scale, a decoder that outlines at each."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        strides: Sequence[Stride],
    ) -> None:
        """Take how far each level strides in that before, along each axis; the first by one voxel."""
        super().__init__(modalities)
        self.plan, self._steps = plan, tuple(accumulate(strides, _times))
        before = (1, *plan.channels[:-1])
        self.encoder = nn.ModuleList(
            Residual(plan, *each) for each in zip(before, plan.channels, strides, strict=True)
        )
        down = list(zip(pairwise(plan.channels), strides[1:], strict=True))[::-1]
        self.ups = nn.ModuleList(Up(plan, deep, fine, stride) for (fine, deep), stride in down)
        self.exits = nn.ModuleList(map_heads(heads, plan.dims, fine) for (fine, _), _ in down)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits; in training also those of coarser levels, `head+1` the finest of them."""
        image = next(iter(seen.values())).x
        require_dims(image, self.plan)
        levels = self._levels(seen)
        x, outputs = levels.pop(), dict[str, Tensor]()
        for place, (up, layers) in enumerate(zip(self.ups, self.exits, strict=True)):
            x, coarser = up(x, levels.pop()), len(self.ups) - 1 - place
            if self.training or not coarser:
                found = predictions(layers, x)  # pyright: ignore[reportArgumentType]
                outputs |= {_exit(head, coarser): logits for head, logits in found.items()}
        whole = list(x.shape[2:])
        return {name: cropped(functional.interpolate(y, whole), image) for name, y in outputs.items()}

    def _levels(self, seen: Mapping[str, Seen]) -> list[Tensor]:
        """Return the mean over what a case has, of every level from the finest."""
        maps = {name: extended(each.x, self._steps[-1]) for name, each in seen.items()}
        whole, levels = next(iter(maps.values())), list[Tensor]()
        maps = {name: x for name, x in maps.items() if seen[name].anybody}
        for level, channels, step in zip(self.encoder, self.plan.channels, self._steps, strict=True):
            maps = {name: level(x) for name, x in maps.items()}
            sides = [size // each for size, each in zip(whole.shape[2:], step, strict=True)]
            levels.append(masked_mean(maps, seen, (len(whole), channels, *sides)))
        return levels


class Residual(nn.Module):
    """`(B, inputs, X, ...)` -> `(B, outputs, X / stride, ...)`."""

    def __init__(self, plan: Plan, inputs: int, outputs: int, stride: Stride) -> None:
        """Build with a shortcut of its own where size or width change."""
        super().__init__()
        layer, kept = CONVOLUTION[plan.dims], (1,) * plan.dims
        self.first = layer(inputs, outputs, 3, stride, padding=1)  # pyright: ignore[reportArgumentType]
        self.second = layer(outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList(norm(outputs, plan.groups) for _ in range(2))
        same = inputs == outputs and stride == kept
        self.shortcut = nn.Identity() if same else layer(inputs, outputs, 1, stride)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        first, second = self.norms
        inner = functional.leaky_relu(first(self.first(x)))
        return functional.leaky_relu(second(self.second(inner)) + self.shortcut(x))


class Up(nn.Module):
    """The map below and the encoder's `(B, fine, X, ...)` -> `(B, fine, X, ...)`."""

    def __init__(self, plan: Plan, deep: int, fine: int, stride: Stride) -> None:
        """Undo `stride`."""
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=tuple(float(each) for each in stride))
        self.narrow = CONVOLUTION[plan.dims](deep, fine, 1)
        self.block = Residual(plan, 2 * fine, fine, (1,) * plan.dims)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Join what comes from below to `skip`."""
        # Convolved before it is repeated: the same, as a kernel sees one voxel, and an eighth of the work.
        return self.block(torch.cat([self.upsample(self.narrow(deep)), skip], 1))


def _exit(head: str, coarser: int) -> str:
    return f"{head}+{coarser}" if coarser else head


def _times(one: Stride, other: Stride) -> Stride:
    return tuple(map(mul, one, other))


def stunet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32, 64),
    groups: Groups = 32,
    dims: Dims = 3,
    in_plane: Natural = 0,
) -> STUNet:
    """Build it.

    Args:
        modalities: images alone.
        heads: segmentations.
        channels: a level from the finest; the paper's are 16 to 256 (small) or 32 to 512 (base).
        groups: the most groups of a norm.
        dims: dimensions of the images.
        in_plane: so many levels halve all axes but the last, for volumes of thick slices.
    """
    need_outlines(modalities, heads, "stunet")
    if len(channels) < 2:  # noqa: PLR2004 - what goes up must have come down
        raise ValueError("channels expected two entries or more, a level of the decoder for all but the last")
    if in_plane >= len(channels):
        raise ValueError(f"in_plane expected at most {len(channels) - 1}, as many levels as are halved")
    kept, flat, halved = (1,) * dims, (*(2,) * (dims - 1), 1), (2,) * dims
    below = range(len(channels) - 1)
    strides = [kept, *(flat if level < in_plane else halved for level in below)]
    return STUNet(modalities, heads, Plan(dims, channels, groups), strides)
