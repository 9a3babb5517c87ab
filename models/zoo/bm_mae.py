"""BM-MAE: a masked auto-encoder that takes any subset of modalities.

    Robinet, Berjaoui, Cohen-Jonathan Moyal: Multimodal Masked Autoencoder Pre-training for 3D MRI-Based
    Brain Tumor Analysis with Missing Modalities. 2025 (code: github.com/Lucas-rbnt/BM-MAE).

    tokens      t_m = tokenizer_m(x_m) + position, one a patch, for each present m
    encoder     f = blocks(class token, kept tokens of all modalities)
    decoder     x = linear(blocks(f, or the mask token where hidden, + position + name of m))
    pretext     sum over m of  mean over hidden patches of  mean over voxels of (x - x_m)^2

A quarter of all tokens is kept, shared out over the modalities by a Dirichlet draw, so that whole
modalities are rebuilt from the others (`masking.dirichlet_kept`). The same network then reads
whatever a case has, all of it, and predicts

    classification, survival     a linear layer on the class token
    segmentation                 UNETR's decoder (Hatamizadeh et al., WACV 2022) over the modalities' mean
                                 tokens after several blocks, and a convolution of the image itself

Who owns what: a tokenizer, a name and the image's convolution belong to the modality, the decoder and
its mask token to the pretext, the rest is shared.

Departures: small; no dropout; hidden tokens are masked in attention instead of left out, which is the
same function; the mean over modalities is over those present; UNETR's first convolution is one a
modality, averaged, where the original reads all as channels; its upsampling is nearest-neighbour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_image, refuse_tables
from models.fusion import masked_mean
from models.heads import map_heads, predictions, pretexts_of, vector_heads
from models.masking import Seen, dirichlet_kept, uniforms
from models.tokens import Block, Encoder, Learned, Tokenizer, as_map, grid_of, patches, positions
from models.unet import CONVOLUTION, Decoder, Dims, Groups, Plan, cropped, extended
from protocol.groups import head_group, modality_group
from protocol.recipe import Count, Head, Inside, Modality
from protocol.typed import Rule

Power = Annotated[int, Rule("2, 4, 8 or 16", lambda value: value in {2, 4, 8, 16})]


@dataclass(frozen=True)
class MAEPlan:
    """Sizes, see `bm_mae`."""

    dims: int
    patch: int
    size: int
    depth: int
    attention_heads: int
    decoder_size: int
    decoder_depth: int
    keep: float
    width: int
    groups: int

    @property
    def levels(self) -> int:
        """How often a patch's side can be halved."""
        return self.patch.bit_length() - 1

    def stem(self) -> nn.Module:
        """Return the convolution by which a segmentation sees the image itself."""
        return CONVOLUTION[self.dims](1, self.width, 3, padding=1)


class BMMAE(MultiModal):
    """Tokenizers by modality, one encoder; a decoder for each pretext, UNETR's for segmentations."""

    pretexts = ("own",)

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: MAEPlan) -> None:
        """Build only what the heads read."""
        super().__init__(modalities)
        self.plan, owners = plan, [modality_group(name) for name in modalities]
        self.tokenizers = nn.ModuleDict({g: Tokenizer(plan.dims, plan.patch, plan.size) for g in owners})
        self.encoder = Encoder(plan.size, plan.depth, plan.attention_heads)
        pretexts = [head_group(name) for name in pretexts_of(heads)]
        self.decoders = nn.ModuleDict({group: _Rebuild(plan) for group in pretexts})
        self.names = nn.ModuleDict({g: Learned(plan.decoder_size) for g in owners if pretexts})
        self.vectors = vector_heads(heads, plan.size)
        self.maps = map_heads(heads, plan.dims, plan.width)
        self.unetr = _Unetr(plan) if self.maps else None
        self.stems = nn.ModuleDict({g: plan.stem() for g in owners if self.maps})

    @property
    def axes(self) -> int:
        """Spatial axes of its images: what reads them is no convolution."""
        return self.plan.dims

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits, from all tokens of what each case has."""
        if not (self.vectors or self.maps):
            return {}
        tokens, present = self._tokens(seen)
        read = present[..., None].expand(tokens.shape[:3])
        states = self.encoder(tokens.flatten(1, 2), read.flatten(1))  # each (B, 1 + M N, D)
        outputs = predictions(self.vectors, states[-1][:, 0])
        if self.unetr is not None:
            grids = [state[:, 1:].unflatten(1, tokens.shape[1:3]) for state in states]
            outputs |= predictions(self.maps, self._decoded(self.unetr, grids, seen))
        return outputs

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return pretext -> how badly what is hidden is rebuilt from what is kept, `(B, 1)`."""
        if not self.decoders:
            return {}
        tokens, present = self._tokens(seen)
        numbers = uniforms(draw, tokens.shape[1], tokens.shape[2] + 1)
        kept = dirichlet_kept(present, self.plan.keep, numbers[..., 0], numbers[..., 1:])  # (B, M, N)
        code = self.encoder(tokens.flatten(1, 2), kept.flatten(1))[-1]
        images = [extended(each.x, self.plan.patch) for each in seen.values()]
        truth = torch.stack([patches(image, self.plan.patch) for image in images], 1)  # (B, M, N, V)
        places = self._places(seen, self.plan.decoder_size)
        wanted = present[..., None] & ~kept
        return {
            group.removeprefix(head_group("")): missed(decoder(code, places, present, kept), truth, wanted)
            for group, decoder in self.decoders.items()
        }

    def _tokens(self, seen: Mapping[str, Seen]) -> tuple[Tensor, Tensor]:
        """Return the tokens of every modality `(B, M, N, D)`, and who has it `(B, M)`."""
        image = next(iter(seen.values())).x
        place = positions(grid_of(image, self.plan.patch), self.plan.size).to(image)  # (1, N, D)
        nobody = place.expand(len(image), -1, -1)
        tokens = [
            self.tokenizers[modality_group(name)](each.x) + place if each.anybody else nobody
            for name, each in seen.items()
        ]
        return torch.stack(tokens, 1), torch.stack([each.has for each in seen.values()], 1)

    def _places(self, seen: Mapping[str, Seen], size: int) -> Tensor:
        """Return what a decoder knows of each place, where and of which modality it is: `(B, M, N, size)`."""
        image = next(iter(seen.values())).x
        place = positions(grid_of(image, self.plan.patch), size).to(image).expand(len(image), -1, -1)
        named = [
            place + self.names[modality_group(name)](*place.shape[:2]) if each.anybody else place
            for name, each in seen.items()
        ]
        return torch.stack(named, 1)

    def _decoded(self, unetr: "_Unetr", grids: list[Tensor], seen: Mapping[str, Seen]) -> Tensor:
        image = next(iter(seen.values())).x
        some = {n: place for place, (n, each) in enumerate(seen.items()) if each.anybody}
        shape = (len(image), *grids[0].shape[2:])
        states = [masked_mean({n: grid[:, m] for n, m in some.items()}, seen, shape) for grid in grids]
        skips = {n: self.stems[modality_group(n)](extended(seen[n].x, self.plan.patch)) for n in some}
        space = [self.plan.patch * size for size in grid_of(image, self.plan.patch)]
        skip = masked_mean(skips, seen, (len(image), self.plan.width, *space))
        return cropped(unetr(skip, states, grid_of(image, self.plan.patch)), image)


def missed(rebuilt: Tensor, truth: Tensor, wanted: Tensor) -> Tensor:
    """Return each modality's mean error over the patches where bool `wanted` `(B, M, N)`, summed: `(B, 1)`.

    `rebuilt`, `truth`: `(B, M, N, V)`. A modality of which nothing is wanted costs nothing.
    """
    error = torch.where(wanted, (rebuilt - truth).square().mean(3), 0.0)
    return (error.sum(2) / wanted.sum(2).clamp(min=1)).sum(1, keepdim=True)


class _Rebuild(nn.Module):
    """The pretext's decoder: from a code of what was kept to the voxels of every patch."""

    def __init__(self, plan: MAEPlan) -> None:
        super().__init__()
        self.narrow = nn.Linear(plan.size, plan.decoder_size)
        self.hidden = Learned(plan.decoder_size)
        self.blocks = nn.ModuleList(
            Block(plan.decoder_size, plan.attention_heads) for _ in range(plan.decoder_depth)
        )
        self.norm = nn.LayerNorm(plan.decoder_size)
        self.voxels = nn.Linear(plan.decoder_size, plan.patch**plan.dims)

    def forward(self, code: Tensor, places: Tensor, present: Tensor, kept: Tensor) -> Tensor:
        """Return `(B, M, N, V)` from `code` `(B, 1 + M N, D)` and what is known of places `(B, M, N, d)`."""
        narrow = self.narrow(code)
        known = kept.flatten(1)[..., None]  # (B, M N, 1)
        x = torch.where(known, narrow[:, 1:], self.hidden(len(code), known.shape[1])) + places.flatten(1, 2)
        x = torch.cat([narrow[:, :1], x], 1)
        there = present[..., None].expand(kept.shape).flatten(1)
        readable = torch.cat([torch.ones_like(there[:, :1]), there], 1)
        for block in self.blocks:
            x = block(x, readable)
        return self.voxels(self.norm(x)[:, 1:]).unflatten(1, kept.shape[1:])


class _Unetr(nn.Module):
    """The states of a transformer as the levels of a U-Net: the later the state, the coarser the level."""

    def __init__(self, plan: MAEPlan) -> None:
        super().__init__()
        channels = tuple(plan.width << level for level in range(plan.levels + 1))
        self.narrow = nn.ModuleList(CONVOLUTION[plan.dims](plan.size, after, 1) for after in channels[1:])
        self.decoder = Decoder(Plan(plan.dims, channels, plan.groups))

    def forward(self, skip: Tensor, states: Sequence[Tensor], grid: tuple[int, ...]) -> Tensor:
        """Return `(B, width, X, Y[, Z])` from the image's own map and the states `(B, N, D)` in order."""
        levels, deepest = [skip], len(self.narrow)
        for level, narrow in enumerate(self.narrow, 1):
            state = as_map(states[(len(states) - 1) * level // deepest], grid)
            levels.append(functional.interpolate(narrow(state), scale_factor=1 << (deepest - level)))
        return self.decoder(levels)


def bm_mae(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    dims: Dims = 2,
    patch: Power = 8,
    size: Count = 96,
    depth: Count = 3,
    attention_heads: Count = 4,
    decoder_size: Count = 48,
    decoder_depth: Count = 1,
    keep: Inside = 0.25,
    width: Count = 16,
    groups: Groups = 8,
) -> BMMAE:
    """Build it.

    Args:
        modalities: images alone.
        heads: what it predicts, and pretexts.
        dims: dimensions of the images.
        patch: side of a patch in voxels.
        size: features of a token in the encoder.
        depth: blocks of the encoder.
        attention_heads: of every block.
        decoder_size: features of a token in a pretext's decoder.
        decoder_depth: blocks of a pretext's decoder.
        keep: share of the tokens that a pretext sees.
        width: channels at the image's own resolution, for segmentations.
        groups: the most groups of a norm, for segmentations.
    """
    need_image(modalities, "bm_mae")
    refuse_tables(modalities, "bm_mae")
    plan = MAEPlan(
        dims, patch, size, depth, attention_heads, decoder_size, decoder_depth, keep, width, groups
    )
    return BMMAE(modalities, heads, plan)
