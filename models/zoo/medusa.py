"""MEDUSA: one body looks at the scan, and every scale of the classifier looks where it looks.

    Aboutalebi, Pavlova, Gunraj, Shafiee, Sabri, Alaref, Wong: MEDUSA: Multi-Scale Encoder-Decoder
    Self-Attention Deep Neural Network Architecture for Medical Image Analysis. Frontiers in Medicine 2022.

    body       G_m = U-Net(x_m), as wide as the image     convolutions shared, norms of m
    attention  A = W (mean over the present m of G_m)     one map a case
               A_j = sigmoid(convolution_j(A on the grid of scale j))
    backbone   F_m,j = level_j(F_m,j-1 * A_j-1), then F_m,j * A_j     convolutions shared, norms of m
    heads      linear, on the mean over the present m of F_m,last * A_last, averaged over space

The body's mean also segments (1x1 convolution), so that hospitals with outlines teach it where to look, in
a stage before or beside the others, and hospitals with grades alone profit: that is the paper's first phase.

Departures: a small U-Net twice in place of a ResNet-50 and a U-Net; a scale's map multiplies, without
further convolutions; several modalities, where the paper has one X-ray: what one sees, all look at.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import encoded, images_of, table_encoders
from models.fits import need_image
from models.fusion import masked_mean
from models.heads import map_heads, predictions, vector_heads
from models.masking import Seen
from models.unet import (
    AVERAGE,
    CONVOLUTION,
    Channels,
    Decoder,
    Dims,
    Encoder,
    Groups,
    Plan,
    cropped,
    padded,
    pooled,
)
from protocol.groups import modality_group
from protocol.recipe import Head, Modality


class Medusa(MultiModal):
    """A body that looks; where a head reads vectors, attention and a backbone."""

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan) -> None:
        """Build only what the heads read."""
        super().__init__(modalities)
        self.images, self.plan = images_of(modalities), plan
        owners = [modality_group(name) for name in self.images]
        self.body = _Body(plan, owners)
        self.maps = map_heads(heads, plan.dims, plan.channels[0])
        self.vectors = vector_heads(heads, plan.channels[-1])
        self.attended = _Attended(plan, owners) if self.vectors else None
        self.tables = table_encoders(modalities, plan.channels[-1]) if self.vectors else nn.ModuleDict()

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        image = seen[self.images[0]].x
        looked = self.look(seen)
        outputs = predictions(self.maps, cropped(looked, image))
        if self.attended is not None:
            vectors = self._vectors(seen, self.attended, looked) | encoded(self.tables, seen)
            fused = masked_mean(vectors, seen, (len(image), self.plan.channels[-1]))
            outputs |= predictions(self.vectors, fused)
        return outputs

    def look(self, seen: Mapping[str, Seen]) -> Tensor:
        """Return what the body sees in all images of a case, `(B, channels[0], X, Y[, Z])`, padded."""
        images = self._images(seen)
        maps = {name: self.body(x, modality_group(name)) for name, x in images.items()}
        like = padded(seen[self.images[0]].x, self.plan)
        return masked_mean(maps, seen, (len(like), self.plan.channels[0], *like.shape[2:]))

    def _vectors(self, seen: Mapping[str, Seen], attended: "_Attended", looked: Tensor) -> dict[str, Tensor]:
        maps = attended.attention(looked)
        images = self._images(seen)
        return {name: pooled(attended(x, modality_group(name), maps)) for name, x in images.items()}

    def _images(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        return {name: padded(seen[name].x, self.plan) for name in self.images if seen[name].anybody}


class _Body(nn.Module):
    """A U-Net: `(B, 1, X, Y[, Z])` -> `(B, channels[0], X, Y[, Z])`."""

    def __init__(self, plan: Plan, owners: Sequence[str]) -> None:
        super().__init__()
        self.encoder = Encoder(plan, 1, owners)
        self.decoder = Decoder(plan, owners)

    def forward(self, x: Tensor, owner: str) -> Tensor:
        return self.decoder(self.encoder(x, owner), owner)


class _Attended(nn.Module):
    """A backbone that sees, at each scale, what attention leaves of it."""

    def __init__(self, plan: Plan, owners: Sequence[str]) -> None:
        super().__init__()
        self.attention = Attention(plan)
        self.backbone = Encoder(plan, 1, owners)

    def forward(self, x: Tensor, owner: str, maps: Sequence[Tensor]) -> Tensor:
        for place, each in enumerate(maps):
            x = self.backbone.level(place, x, owner) * each
        return x


class Attention(nn.Module):
    """What the body sees -> where each scale looks, `(B, 1, ...)` in (0, 1), finest first."""

    def __init__(self, plan: Plan) -> None:
        """Build one map for all, and a convolution for each scale."""
        super().__init__()
        layer = CONVOLUTION[plan.dims]
        self.dims = plan.dims
        self.map = layer(plan.channels[0], 1, 1)
        self.scales = nn.ModuleList(layer(1, 1, 3, padding=1) for _ in plan.channels)

    def forward(self, looked: Tensor) -> list[Tensor]:
        """Take `(B, channels[0], X, Y[, Z])`, padded."""
        whole, shrink = self.map(looked), AVERAGE[self.dims]
        grids = [shrink(whole, 1 << place) for place in range(len(self.scales))]
        return [torch.sigmoid(scale(grid)) for scale, grid in zip(self.scales, grids, strict=True)]


def medusa(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    groups: Groups = 8,
    dims: Dims = 2,
) -> Medusa:
    """Build it: `channels` a level of both networks, at most `groups` groups of a norm, images of `dims`."""
    need_image(modalities, "medusa")
    return Medusa(modalities, heads, Plan(dims, channels, groups))
