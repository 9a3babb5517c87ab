"""MSM-Seg: a volume read slice by slice and modality by modality, each with a memory of those before.

    MSM-Seg: Modality-and-Slice Memory for multi-modal brain tumour segmentation. arXiv 2510.10679
    (code: github.com/xq141839/MSM-Seg), built on SAM 2 (Ravi et al., 2024).

    x_z,m    features of slice z of modality m, from convolutions that see one slice
    y_z,m    read(first half of x_z,m; what is remembered of modality m in the slices before)
             + read(second half of x_z,m; what is remembered of this slice in the modalities before)
    s_z,m    one number a place: where anything is to be outlined (the "self prompt")
    memory   linear(x_z,m beside sigmoid(s_z,m))
    logits   decoder(mean over the present m of y_z,m + linear(sigmoid(s_z,m)), and of finer features)

`read` is attention to the memory and a transformer block; where there is nothing to remember, it reads one
learned token. Modalities come in the recipe's order, and one that a case lacks is a frame that is not there:
nothing of it is remembered and the memory is shorter. How far back a modality lies is a learned vector.

While training, the self prompt is an earlier exit of every head (`models.objectives`).

Departures: no SAM weights, a few small convolutions in their place, with a first layer for each modality and
norms over the volume; no boxes and clicks (the paper's prompt-free mode); positions are added instead of
rotated in; memory is attended to before the slice itself; the exit weighs 1, in the paper 0.5, and is
compared at full size.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import masked_mean
from models.heads import map_heads, predictions
from models.masking import Seen
from models.tokens import CrossBlock, Learned, positions
from models.unet import Channels, Dims, Groups, Plan, cropped, extended, require_dims, unit
from protocol.errors import RecipeError
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality

_IN_PLANE = (3, 3, 1)
_HALF = (2, 2, 1)


class SliceMemory(MultiModal):
    """Convolutions in the plane, memory across slices and modalities, one decoder."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        attention_heads: int,
        reach: int,
    ) -> None:
        """Take `plan` for 2D images, each one slice, or volumes; remember `reach` slices."""
        super().__init__(modalities)
        self.plan, self.reach, self.size = plan, reach, plan.channels[-1]
        self._classes = {name: head.classes for name, head in heads.items()}
        planes, owners = Plan(3, plan.channels, plan.groups), [modality_group(name) for name in modalities]
        first, widths = plan.channels[0], list(pairwise(plan.channels))
        self.stems = nn.ModuleDict({owner: unit(planes, 1, first, _IN_PLANE) for owner in owners})
        self.encoder = nn.ModuleList(unit(planes, fine, coarse, _IN_PLANE) for fine, coarse in widths)
        self.frame = Frame(self.size, attention_heads)
        self.distances = nn.ModuleList(Learned(self.size) for _ in owners[1:])
        self.dense = nn.Linear(1, self.size)
        backwards = [(coarse + fine, fine) for fine, coarse in reversed(widths)]
        self.decoder = nn.ModuleList(unit(planes, both, fine, _IN_PLANE) for both, fine in backwards)
        self.maps = map_heads(heads, 3, first)

    @property
    def axes(self) -> int:
        """Spatial axes of its images, whose slices it convolves as volumes."""
        return self.plan.dims

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits; in training also the self prompt, `head+1`."""
        image = next(iter(seen.values())).x
        require_dims(image, self.plan)
        levels = {name: self._levels(name, each.x) for name, each in seen.items() if each.anybody}
        read, prompts = self._remembering({name: maps[-1] for name, maps in levels.items()}, seen)
        outputs = predictions(self.maps, self._decoded(levels, read, seen))
        if self.training:
            prompt = masked_mean(prompts, seen, self._shape(image, 1, len(self.encoder)))
            prompt = functional.interpolate(prompt, scale_factor=(*[float(1 << len(self.encoder))] * 2, 1.0))
            outputs |= {
                f"{head}+1": prompt.expand(-1, each, -1, -1, -1) for head, each in self._classes.items()
            }
        return {name: cropped(x if image.ndim == x.ndim else x[..., 0], image) for name, x in outputs.items()}

    def _levels(self, name: str, image: Tensor) -> list[Tensor]:
        """Return maps from the finest, each `(B, C, X / 2^l, Y / 2^l, Z)`."""
        maps = [self.stems[modality_group(name)](self._volume(image))]
        for layer in self.encoder:
            maps.append(layer(functional.max_pool3d(maps[-1], _HALF)))
        return maps

    def _remembering(
        self, maps: Mapping[str, Tensor], seen: Mapping[str, Seen]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what is read of every modality `(B, D, x, y, Z)`, and its self prompts `(B, 1, x, y, Z)`."""
        frames = {name: _frames(x) for name, x in maps.items()}
        slices = next(iter(frames.values())).shape[1] if frames else 0
        read: dict[str, list[Tensor]] = {name: [] for name in frames}
        prompts: dict[str, list[Tensor]] = {name: [] for name in frames}
        past: dict[str, list[Tensor]] = {name: [] for name in frames}
        last = [(slices - 1, name) for name in frames][-1:]  # which nobody will ask for
        for z in range(slices):
            here: dict[str, Tensor] = {}
            for name in frames:
                x = frames[name][:, z]
                y, prompt = self.frame(x, past[name], *self._others(name, here, x, seen))
                read[name].append(y + self.dense(prompt.sigmoid()))
                prompts[name].append(prompt)
                if (z, name) not in last:
                    here[name] = self.frame.remembered(x, prompt)
            past = {name: [*past[name], memory][-self.reach :] for name, memory in here.items()}
        return tuple({n: _laid_out(x, maps[n]) for n, x in each.items()} for each in (read, prompts))  # pyright: ignore[reportReturnType]

    def _others(
        self, name: str, here: Mapping[str, Tensor], like: Tensor, seen: Mapping[str, Seen]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the memories `(B, N, D)` of the modalities before, and who has them `(B,)`.

        One that nobody has keeps its place, so that sums have as many terms for every batch.
        """
        place = self.modalities.index(name)
        memories: list[Tensor] = []
        for before, other in enumerate(self.modalities[:place]):
            if other in here:
                memories.append(here[other] + self.distances[place - before - 1](len(like), 1))
            else:
                memories.append(torch.zeros_like(like))
        return memories, [seen[other].has for other in self.modalities[:place]]

    def _decoded(
        self, levels: Mapping[str, list[Tensor]], read: Mapping[str, Tensor], seen: Mapping[str, Seen]
    ) -> Tensor:
        image = next(iter(seen.values())).x
        x = masked_mean(read, seen, self._shape(image, self.size, len(self.encoder)))
        for layer, level in zip(self.decoder, reversed(range(len(self.encoder))), strict=True):
            shape = self._shape(image, self.plan.channels[level], level)
            skip = masked_mean({name: maps[level] for name, maps in levels.items()}, seen, shape)
            x = layer(torch.cat([functional.interpolate(x, scale_factor=(2.0, 2.0, 1.0)), skip], 1))
        return x

    def _volume(self, image: Tensor) -> Tensor:
        """Return `(B, 1, X, Y, Z)`, the plane's sides multiples of what halving needs."""
        volume = image[..., None] if self.plan.dims == 2 else image  # noqa: PLR2004 - a slice
        multiple = 1 << len(self.encoder)
        return extended(volume, (multiple, multiple, 1))

    def _shape(self, image: Tensor, channels: int, level: int) -> tuple[int, ...]:
        x, y, z = self._volume(image).shape[2:]
        return len(image), channels, x >> level, y >> level, z


class Frame(nn.Module):
    """Reads one slice of one modality with two memories, and remembers it."""

    def __init__(self, size: int, attention_heads: int) -> None:
        """Build for `size` features, an even number."""
        super().__init__()
        self.widen = nn.ModuleList(nn.Linear(size // 2, size) for _ in range(2))
        self.reads = nn.ModuleList(CrossBlock(size, attention_heads) for _ in range(2))
        self.nothing = nn.ModuleList(Learned(size) for _ in range(2))
        self.prompt = nn.Linear(size, 1)
        self.remember = nn.Linear(size + 1, size)

    def forward(
        self, x: Tensor, past: Sequence[Tensor], others: Sequence[Tensor], has: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what is read `(B, N, D)` and the self prompt `(B, N, 1)`.

        `x`, `past`, `others`: `(B, N, D)`; `has`: bool `(B,)`, whose memory each of `others` is.
        """
        known = [x.new_ones(len(x), dtype=torch.bool)] * len(past)
        read = [
            self._read(which, half, memories, there)
            for which, (half, memories, there) in enumerate(
                zip(x.chunk(2, 2), (past, others), (known, has), strict=True)
            )
        ]
        y = read[0] + read[1]
        return y, self.prompt(y)

    def remembered(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Return the memory `(B, N, D)` of features `(B, N, D)` and self prompt `(B, N, 1)`."""
        return self.remember(torch.cat([x, prompt.sigmoid()], 2))

    def _read(self, which: int, half: Tensor, memories: Sequence[Tensor], has: Sequence[Tensor]) -> Tensor:
        nothing = self.nothing[which](len(half), 1)
        readable = [nothing.new_ones(len(half), 1, dtype=torch.bool)]
        readable += [each[:, None].expand(half.shape[:2]) for each in has]
        context = torch.cat([nothing, *memories], 1)
        return self.reads[which](self.widen[which](half), context, torch.cat(readable, 1))


def _frames(x: Tensor) -> Tensor:
    """Lay a map `(B, D, x, y, Z)` out as the tokens of every slice, with their places: `(B, Z, N, D)`."""
    place = positions(tuple(x.shape[2:4]), x.shape[1]).to(x)
    return x.flatten(2, 3).permute(0, 3, 2, 1) + place


def _laid_out(slices: Sequence[Tensor], like: Tensor) -> Tensor:
    """Lay the tokens of every slice `(B, N, C)` out as a map `(B, C, x, y, Z)`."""
    return torch.stack(list(slices), 3).transpose(1, 2).unflatten(2, like.shape[2:4]).contiguous()


def modality_slice_memory(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    attention_heads: Count = 2,
    reach: Count = 4,
    groups: Groups = 8,
    dims: Dims = 3,
) -> SliceMemory:
    """Build it.

    Args:
        modalities: images alone, read in this order.
        heads: segmentations.
        channels: a level from the finest; the last, a multiple of 4, are the features of a memory.
        attention_heads: of every attention.
        reach: how many slices back are remembered.
        groups: the most groups of a norm.
        dims: 3, slices along the last axis, or 2, one slice.
    """
    need_outlines(modalities, heads, "modality_slice_memory")
    if channels[-1] % 4:
        raise RecipeError("model.channels: the last must be a multiple of 4, to hold places and two halves")
    return SliceMemory(modalities, heads, Plan(dims, channels, groups), attention_heads, reach)
