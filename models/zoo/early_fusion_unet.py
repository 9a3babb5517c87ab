"""The baseline: modalities as the channels of one U-Net, zeros where one is absent, or another filler.

What a single hospital with complete data would train (Ronneberger et al., MICCAI 2015), and
what missing-modality methods are compared with. All of it is shared: a site without FLAIR
trains the first layer's FLAIR weights on zeros, which is the weakness that parameters with
owners are meant to remove.

Heads that are no segmentation read the deepest map, averaged over space, beside the tables.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import images_of, tables_of
from models.fillers import Filler, Kind
from models.fits import need_image
from models.heads import map_heads, predictions, vector_heads
from models.masking import Seen
from models.unet import Channels, Decoder, Dims, Encoder, Groups, Plan, cropped, padded, pooled
from protocol.recipe import Head, Modality


class EarlyFusionUNet(MultiModal):
    """Images as channels of an encoder and a decoder, tables beside the pooled map."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        encoder: Callable[[Plan, int], nn.Module] = Encoder,
        decoder: Callable[[Plan], nn.Module] = Decoder,
        *,
        filler: str = "zero",
    ) -> None:
        """Build only what the heads read: no decoder without a segmentation."""
        super().__init__(modalities)
        self.images, self.tables, self.plan = images_of(modalities), tables_of(modalities), plan
        self.filler = Filler(filler, plan.dims, len(self.images))
        self.encoder = encoder(plan, len(self.images))
        self.maps = map_heads(heads, plan.dims, plan.channels[0])
        self.decoder = decoder(plan) if self.maps else None
        features = sum(modalities[name].features for name in self.tables)
        self.vectors = vector_heads(heads, plan.channels[-1] + features)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        image = self.filler([seen[name] for name in self.images])  # (B, images, X, Y[, Z])
        levels = self.encoder(padded(image, self.plan))
        outputs: dict[str, Tensor] = {}
        if self.decoder is not None:
            outputs |= predictions(self.maps, cropped(self.decoder(levels), image))
        if self.vectors:
            beside = [seen[name].x for name in self.tables]
            outputs |= predictions(self.vectors, torch.cat([pooled(levels[-1]), *beside], 1))
        return outputs


def early_fusion_unet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
    filler: Kind = "zero",
) -> EarlyFusionUNet:
    """Build it.

    Args:
        modalities: images, one at least, and tables.
        heads: any.
        channels: a level.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        filler: what stands where an image is absent, see `models.fillers`.
    """
    need_image(modalities, "early_fusion_unet")
    return EarlyFusionUNet(modalities, heads, Plan(dims, channels, groups), filler=filler)
