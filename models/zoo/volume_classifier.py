"""A small network a modality, the mean of their features, one layer a head.

Late fusion for classification and survival. An image goes through strided 3x3 convolutions,
each with GroupNorm and ReLU, and is averaged over space (the all-convolutional net of
Springenberg et al., ICLR 2015); a table goes through two linear layers. Every encoder belongs
to its modality, so sites that hold different modalities meet in the feature space and the heads.
"""

from collections.abc import Mapping

from torch import Tensor

from models.base import MultiModal
from models.encoders import encoded, images_of, vector_encoders
from models.fits import need_image, refuse_segmentation
from models.fusion import masked_mean
from models.heads import predictions, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Groups, Plan
from protocol.recipe import Head, Modality


class VolumeClassifier(MultiModal):
    """Encoders by modality, masked mean of their features, linear heads."""

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan) -> None:
        """Build with encoders that end in `plan.channels[-1]` features."""
        super().__init__(modalities)
        self.images, self.plan = images_of(modalities), plan
        self.encoders = vector_encoders(modalities, plan)
        self.heads = vector_heads(heads, plan.channels[-1])

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        cases = len(seen[self.images[0]].x)
        fused = masked_mean(encoded(self.encoders, seen), seen, (cases, self.plan.channels[-1]))
        return predictions(self.heads, fused)


def volume_classifier(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    groups: Groups = 8,
    dims: Dims = 3,
) -> VolumeClassifier:
    """Build it: `channels` a level, at most `groups` groups of a norm, `dims` of the images."""
    need_image(modalities, "volume_classifier")
    refuse_segmentation(heads, "volume_classifier")
    return VolumeClassifier(modalities, heads, Plan(dims, channels, groups))
