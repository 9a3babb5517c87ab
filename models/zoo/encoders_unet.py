"""An encoder for each modality, their mean at every scale, one decoder.

Hetero-modal segmentation: HeMIS (Havaei et al., MICCAI 2016) averages what each modality's
own network has extracted, U-HVED (Dorent et al., MICCAI 2019) does so at every scale of a
U-Net; here the mean alone, without HeMIS's variance (zero for one modality) or a
variational part.

    f_m = encoder_m(x_m), one map a scale       belongs to modality m
    logits = head(decoder(mean over the present m of f_m, at each scale))

More parameters than `parallel_unet` and one decoder pass for all modalities instead of M.
"""

from collections.abc import Callable, Mapping

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


class EncodersUNet(MultiModal):
    """Encoders by modality, masked mean at each scale, shared decoder."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        decoder: Callable[[Plan], nn.Module] = Decoder,
    ) -> None:
        """Build only what the heads read: no decoder without a segmentation."""
        super().__init__(modalities)
        self.images, self.plan = images_of(modalities), plan
        self.encoders = nn.ModuleDict({modality_group(name): Encoder(plan, 1) for name in self.images})
        self.maps = map_heads(heads, plan.dims, plan.channels[0])
        self.decoder = decoder(plan) if self.maps else None
        self.vectors = vector_heads(heads, plan.channels[-1])
        self.tables = table_encoders(modalities, plan.channels[-1]) if self.vectors else nn.ModuleDict()

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        levels = self.levels(seen)
        return self.read(levels, self.fused(levels, seen), seen)

    def levels(self, seen: Mapping[str, Seen]) -> dict[str, list[Tensor]]:
        """Return the encoders' maps, finest first, of every image that anybody has."""
        return {
            name: self.encoders[modality_group(name)](padded(seen[name].x, self.plan))
            for name in self.images
            if seen[name].anybody
        }

    def read(
        self, levels: Mapping[str, list[Tensor]], fused: list[Tensor], seen: Mapping[str, Seen]
    ) -> dict[str, Tensor]:
        """Return head -> logits: outlines from what is `fused`, others from each encoder's last map."""
        image = seen[self.images[0]].x
        outputs: dict[str, Tensor] = {}
        if self.decoder is not None:
            decoded = self.decoder(fused)
            outputs |= predictions(self.maps, cropped(decoded, image))
        if self.vectors:
            vectors = {n: pooled(each[-1]) for n, each in levels.items()} | encoded(self.tables, seen)
            mean = masked_mean(vectors, seen, (len(image), self.plan.channels[-1]))
            outputs |= predictions(self.vectors, mean)
        return outputs

    def fused(self, levels: Mapping[str, list[Tensor]], seen: Mapping[str, Seen]) -> list[Tensor]:
        """Return the mean of what is present at each scale, finest first."""
        image = padded(seen[self.images[0]].x, self.plan)
        fused: list[Tensor] = []
        for level, channels in enumerate(self.plan.channels):
            shape = (len(image), channels, *(size >> level for size in image.shape[2:]))
            fused.append(masked_mean({n: each[level] for n, each in levels.items()}, seen, shape))
        return fused


def encoders_unet(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
) -> EncodersUNet:
    """Build it: `channels` a level, at most `groups` groups of a norm, `dims` of the images."""
    need_image(modalities, "encoders_unet")
    return EncodersUNet(modalities, heads, Plan(dims, channels, groups))
