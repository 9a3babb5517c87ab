"""Vectors of frozen encoders, the gap between modalities closed, and a small network on top.

    Restrepo, Wu, Cajas et al.: Multimodal Deep Learning for Low-Resource Settings: A Vector Embedding
    Alignment Approach for Healthcare Applications. 2024 (arXiv 2406.02601; code:
    github.com/dsrestrepo/Embedding-Alignment).

    z_m      encoder(x_m) / |encoder(x_m)|           the encoder learns nothing
    c_m      mean of z_m over all cases that have m   what stands for m where it is absent
    gap      z_m <- (z_m - strength (c_m - mean over all modalities of c)) / its norm
    logits   heads(ReLU(W [z_1; ...; z_M]))          W and the heads are all that a federation trains

With two modalities, each moves half of the gap c_1 - c_2: at strength 1 their means coincide before the norm,
at 0 nothing moves. The c are parameters, and a pretext (`objective: own`) learns them: half of |z_m - c_m|^2
is least at the mean. They travel and are private as everything else is, and are shared: who needs the
mean of FLAIR is who has none.

Departures: no weights are downloaded; an image's encoder is a convolutional network of fixed random kernels
(Saxe et al.: On Random Weights and Unsupervised Feature Learning, ICML 2011). A table, such as one of
vectors that a hospital has made beforehand, is brought to the same length by a fixed random projection,
where the code interpolates.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.encoders import images_of
from models.fits import refuse_segmentation
from models.heads import predictions, pretexts_of, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Plan, pooled, require_dims
from protocol.recipe import Count, Head, Modality
from protocol.typed import Rule

Strength = Annotated[float, Rule("in [-1, 1]", lambda value: -1 <= value <= 1)]

_CONVOLUTION = {2: functional.conv2d, 3: functional.conv3d}


class EmbedFusion(MultiModal):
    """Means of the modalities, one hidden layer, linear heads."""

    pretexts = ("own",)

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        hidden: int,
        strength: float,
    ) -> None:
        """Build with means of zero, which neither fill in anything nor move anything."""
        super().__init__(modalities)
        self.images, self.plan, self.strength = images_of(modalities), plan, strength
        self.size = sum(plan.channels)
        self.means = nn.ModuleList(nn.Linear(1, self.size, bias=False) for _ in modalities)
        for weight in self.means.parameters():
            nn.init.zeros_(weight)
        self.hidden = nn.Linear(len(self.means) * self.size, hidden)
        self.heads = vector_heads(heads, hidden)
        self.learned = pretexts_of(heads)

    @property
    def axes(self) -> int:
        """Spatial axes of its images: no parameter tells."""
        return self.plan.dims if self.images else 0

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits; what is absent is its modality's mean."""
        has = torch.stack([each.has for each in seen.values()], 1)[..., None]
        vectors = torch.stack([z for _, z in self._each(seen)], 1)
        ones = torch.ones(len(has), 1, device=has.device)
        with torch.no_grad():  # labels do not move the means
            means = torch.stack([mean(ones) for mean in self.means], 1)
        aligned = gap_shift(torch.where(has, vectors, means), means, self.strength)
        return predictions(self.heads, torch.relu(self.hidden(aligned.flatten(1))))

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return half of the squared distances of a case's vectors from their means, `(B, 1)`."""
        if not self.learned:
            return {}
        ones = torch.ones(len(draw), 1, device=draw.device)
        costs = [
            torch.where(seen[name].has, (z - mean(ones)).square().sum(1) / 2, 0.0)
            for mean, (name, z) in zip(self.means, self._each(seen), strict=True)
        ]
        return dict.fromkeys(self.learned, torch.stack(costs).sum(0)[:, None])

    def _each(self, seen: Mapping[str, Seen]) -> list[tuple[str, Tensor]]:
        return [(name, self._embedded(name, each.x)) for name, each in seen.items()]

    def _embedded(self, name: str, x: Tensor) -> Tensor:
        vector = by_image(x, self.plan) if name in self.images else by_table(x, self.size)
        return functional.normalize(vector, dim=1)


def gap_shift(vectors: Tensor, means: Tensor, strength: float) -> Tensor:
    """Move each modality's unit vectors towards the others', and bring them back to norm 1.

    Args:
        vectors: `(B, M, size)`.
        means: of each modality over all cases, `(M, size)` or `(B, M, size)`.
        strength: 1 closes the gap between the means, 0 leaves it, below 0 widens it.
    """
    return functional.normalize(vectors - strength * (means - means.mean(-2, keepdim=True)), dim=-1)


def by_image(x: Tensor, plan: Plan) -> Tensor:
    """Return what fixed kernels find in `(B, 1, X, Y[, Z])`, averaged over space: `(B, sum(channels))`."""
    require_dims(x, plan)
    found: list[Tensor] = []
    for widths in pairwise((1, *plan.channels)):
        kernel = fixed(widths[1], widths[0], *[3] * plan.dims).to(x)
        x = torch.relu(_CONVOLUTION[plan.dims](x, kernel, stride=2, padding=1))
        found.append(pooled(x))
    return torch.cat(found, 1)


def by_table(x: Tensor, size: int) -> Tensor:
    """Project `(B, F)` to `(B, size)`, the same way on every machine."""
    return functional.linear(x, fixed(size, x.shape[1]).to(x))


@lru_cache(maxsize=64)
def fixed(outputs: int, *inputs: int) -> Tensor:
    """Return kernels `(outputs, *inputs)` of a standard normal, scaled to keep a ReLU's input's size."""
    drawn = torch.randn(outputs, *inputs, generator=torch.Generator().manual_seed(outputs))
    return drawn * (2 / drawn[0].numel()) ** 0.5


def embed_fusion(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    dims: Dims = 2,
    hidden: Count = 32,
    strength: Strength = 1.0,
) -> EmbedFusion:
    """Build it.

    Args:
        modalities: images and tables.
        heads: classifications and survivals; a pretext, with objective `own`, learns the means.
        channels: a level of the images' fixed encoder; their sum is the length of a vector.
        dims: dimensions of the images.
        hidden: features of the hidden layer.
        strength: how much of the gap between modalities is closed.
    """
    refuse_segmentation(heads, "embed_fusion")
    return EmbedFusion(modalities, heads, Plan(dims, channels, 1), hidden, strength)
