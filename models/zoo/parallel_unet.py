"""One U-Net, run once for each modality; the logits of those present are averaged.

The parallel backbone of "Robust brain tumour segmentation with Hoelder divergence and mutual
information" (code: github.com/Lboy11/Brain-Tumor-Segmentation), which fits a federation
better than any other design: convolutions are shared, so that a site with FLAIR alone
improves T1 too; each modality has norms of its own ("private norm"), which absorb what its
intensities look like; and the mean needs no learned fusion that would have to be trained
on all subsets.

    z_m = U-Net(x_m; shared convolutions, norms of m)
    logits = mean over the present m of  W z_m + b   =   W (mean of z_m) + b

A head that is no segmentation reads, in place of `z_m`, the deepest map of each image,
averaged over space, and one encoding for each table, all in one mean. A segmentation of a
case without any image is the bias alone.

Departures: no "exchange" of channels (off by default there), nearest-neighbour instead of
trilinear upsampling, and the mean is taken before the (affine) output layer, once, not M times.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import encoded, images_of, table_encoders
from models.fits import need_image
from models.fusion import masked_mean
from models.heads import map_heads, predictions, vector_heads
from models.masking import Seen
from models.unet import Channels, Decoder, Dims, Encoder, Groups, Plan, cropped, padded, pooled
from protocol.groups import modality_group
from protocol.recipe import Head, Modality


class ParallelUNet(MultiModal):
    """Shared convolutions, private norms, mean of logits."""

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan) -> None:
        """Build only what the heads read: no decoder without a segmentation."""
        super().__init__(modalities)
        self.images, self.plan = images_of(modalities), plan
        owners = [modality_group(name) for name in self.images]
        self.encoder = Encoder(plan, 1, owners)
        self.maps = map_heads(heads, plan.dims, plan.channels[0])
        self.decoder = Decoder(plan, owners) if self.maps else None
        self.vectors = vector_heads(heads, plan.channels[-1])
        self.tables = table_encoders(modalities, plan.channels[-1]) if self.vectors else nn.ModuleDict()

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        levels = self.levels(seen)
        image, channels = seen[self.images[0]].x, self.plan.channels
        outputs: dict[str, Tensor] = {}
        if self.decoder is not None:
            maps = {n: self.decoder(each, modality_group(n)) for n, each in levels.items()}
            maps = {n: cropped(x, image) for n, x in maps.items()}
            fused = masked_mean(maps, seen, (len(image), channels[0], *image.shape[2:]))
            outputs |= predictions(self.maps, fused)
        if self.vectors:
            vectors = {n: pooled(each[-1]) for n, each in levels.items()} | encoded(self.tables, seen)
            outputs |= predictions(self.vectors, masked_mean(vectors, seen, (len(image), channels[-1])))
        return outputs

    def levels(self, seen: Mapping[str, Seen]) -> dict[str, list[Tensor]]:
        """Return the encoder's maps, finest first, of every image that anybody has."""
        return {
            name: self.encoder(padded(seen[name].x, self.plan), modality_group(name))
            for name in self.images
            if seen[name].anybody
        }


def parallel_unet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
) -> ParallelUNet:
    """Build it: `channels` a level, at most `groups` groups of a norm, `dims` of the images."""
    need_image(modalities, "parallel_unet")
    return ParallelUNet(modalities, heads, Plan(dims, channels, groups))
