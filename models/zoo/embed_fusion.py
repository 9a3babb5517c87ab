"""Vectors of frozen encoders, the gap between modalities closed, and a small network on top.

    Restrepo, Wu, Cajas et al.: Multimodal Deep Learning for Low-Resource Settings: A Vector Embedding
    Alignment Approach for Healthcare Applications. 2024 (arXiv 2406.02601; code:
    github.com/dsrestrepo/Embedding-Alignment).

    z_m      encoder_m(x_m) / |encoder_m(x_m)|       no label of a case's vector moves an encoder
    c_m      mean of z_m over all cases that have m   what stands for m where it is absent
    gap      z_m <- (z_m - strength (c_m - mean over all modalities of c)) / its norm
    logits   heads(ReLU(W [z_1; ...; z_M]))          W and the heads are all that learns from labels

With two modalities, each moves half of the gap c_1 - c_2: at strength 1 their means coincide before the norm,
at 0 nothing moves. The c are parameters, and a pretext (`objective: own`) learns them: half of |z_m - c_m|^2
is least at the mean. They travel and are private as everything else is, and are shared: who needs the
mean of FLAIR is who has none.

Departures: no weights are downloaded. Encoders are `encoders_unet`'s, one a modality, and learn by outlining:
a segmentation reads them through a decoder, in a stage before the one that reads vectors and leaves them as
they are (`training: {frozen: [modality]}`). A vector is an encoder's maps of all levels, averaged over space.
A table, such as one of vectors that a hospital has made beforehand, is brought to the same length by a fixed
random projection, where the code interpolates. W reads how far a vector is from the direction that all means
have in common, in units of an entry: the same functions, but what all vectors share is nearly all of them
(norm 0.99 of 1), and behind it the ReLUs died before anything was learned.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_image
from models.heads import outlines_of, predictions, pretexts_of, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Groups, Plan, pooled
from models.zoo.encoders_unet import EncodersUNet
from protocol.recipe import Count, Head, Modality
from protocol.typed import Rule

Strength = Annotated[float, Rule("in [-1, 1]", lambda value: -1 <= value <= 1)]


class EmbedFusion(MultiModal):
    """A network that outlines; from vectors of its encoders, means, one hidden layer, linear heads."""

    pretexts = ("own",)

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        hidden: int,
        strength: float,
    ) -> None:
        """Build what the heads read, with means of zero, which neither fill in anything nor move anything."""
        super().__init__(modalities)
        self.size, self.strength, self.learned = sum(plan.channels), strength, pretexts_of(heads)
        self.body = EncodersUNet(modalities, outlines_of(heads), plan)
        self.heads = vector_heads(heads, hidden)
        read = modalities if self.heads or self.learned else ()
        self.means = nn.ModuleList(nn.Linear(1, self.size, bias=False) for _ in read)
        for weight in self.means.parameters():
            nn.init.zeros_(weight)
        self.hidden = nn.Linear(len(self.means) * self.size, hidden) if self.heads else None

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits and pretext -> costs, of one pass of the encoders."""
        levels = self.body.levels(seen)
        outputs: dict[str, Tensor] = {}
        if self.body.maps:
            outputs |= self.body.read(levels, self.body.fused(levels, seen), seen)
        if self.means:
            has = torch.stack([each.has for each in seen.values()], 1)[..., None]
            outputs |= self._of_vectors(self.vectors(levels, seen), has)
        return outputs

    def vectors(self, levels: Mapping[str, list[Tensor]], seen: Mapping[str, Seen]) -> Tensor:
        """Return unit vectors `(B, M, size)`, of no meaning where a case lacks the modality.

        Detached: encoders learn from outlines alone, and whoever trains vectors' heads trains no more.
        """
        found = [self._vector(name, each.x, levels) for name, each in seen.items()]
        return functional.normalize(torch.stack(found, 1), dim=2).detach()

    def _vector(self, name: str, x: Tensor, levels: Mapping[str, list[Tensor]]) -> Tensor:
        if name in levels:
            return by_image(levels[name])
        return x.new_zeros(len(x), self.size) if name in self.body.images else by_table(x, self.size)

    def _of_vectors(self, z: Tensor, has: Tensor) -> dict[str, Tensor]:
        unit = z.new_full((len(z), 1), self.size**-0.5)  # a parameter of 1 is what each entry of a vector has
        means = torch.stack([mean(unit) for mean in self.means], 1)
        costs = torch.where(has, (z - means).square(), 0.0).sum((1, 2)) / 2
        outputs = dict.fromkeys(self.learned, costs[:, None])
        if self.hidden is not None:
            means = means.detach()  # labels do not move the means
            aligned = gap_shift(torch.where(has, z, means), means, self.strength)
            apart = self.size**0.5 * (aligned - common(means))
            outputs |= predictions(self.heads, torch.relu(self.hidden(apart.flatten(1))))
        return outputs


def gap_shift(vectors: Tensor, means: Tensor, strength: float) -> Tensor:
    """Move each modality's unit vectors towards the others', and bring them back to norm 1.

    Args:
        vectors: `(B, M, size)`.
        means: of each modality over all cases, `(M, size)` or `(B, M, size)`.
        strength: 1 closes the gap between the means, 0 leaves it, below 0 widens it.
    """
    return functional.normalize(vectors - strength * (means - means.mean(-2, keepdim=True)), dim=-1)


def common(means: Tensor) -> Tensor:
    """Return the direction of the mean of all modalities' means, `(..., 1, size)`; 0 where they are 0."""
    return functional.normalize(means.mean(-2, keepdim=True), dim=-1)


def by_image(maps: Sequence[Tensor]) -> Tensor:
    """Return an encoder's maps of all levels, averaged over space: `(B, sum(channels))`."""
    return torch.cat([pooled(each) for each in maps], 1)


def by_table(x: Tensor, size: int) -> Tensor:
    """Project `(B, F)` to `(B, size)`, the same way on every machine."""
    return functional.linear(x, fixed(size, x.shape[1]).to(x))


@lru_cache(maxsize=64)
def fixed(outputs: int, inputs: int) -> Tensor:
    """Return a matrix `(outputs, inputs)` of a standard normal, scaled to keep a ReLU's input's size."""
    drawn = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))
    return drawn * (2 / inputs) ** 0.5


def embed_fusion(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    groups: Groups = 8,
    dims: Dims = 2,
    hidden: Count = 32,
    strength: Strength = 1.0,
) -> EmbedFusion:
    """Build it.

    Args:
        modalities: images and tables.
        heads: segmentations teach the encoders; classifications and survivals read vectors; a pretext,
            with objective `own`, learns the means.
        channels: a level of an encoder; their sum is the length of a vector.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        hidden: features of the hidden layer.
        strength: how much of the gap between modalities is closed.
    """
    if outlines_of(heads):
        need_image(modalities, "embed_fusion")
    return EmbedFusion(modalities, heads, Plan(dims, channels, groups), hidden, strength)
