"""A small network a modality, the mean of their features, one layer a head.

Late fusion for classification and survival. An image goes through strided 3x3 convolutions,
each with GroupNorm and ReLU, and is averaged over space (the all-convolutional net of
Springenberg et al., ICLR 2015); a signal through such convolutions along time; a table through two
linear layers. Every encoder belongs to its modality, so sites that hold different modalities meet
in the feature space and the heads.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from models.base import MultiModal
from models.encoders import encoded, images_of, signal_encoders, vector_encoders
from models.fits import need_image, refuse_segmentation
from models.fusion import masked_mean
from models.heads import predictions, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Groups, Plan
from protocol.recipe import Head, Modality


class VolumeClassifier(MultiModal):
    """Encoders by modality, masked mean of their features, linear heads."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        signals: Mapping[str, int],
    ) -> None:
        """Build with encoders that end in `plan.channels[-1]` features."""
        super().__init__(modalities)
        self.images, self.plan = images_of(modalities), plan
        others = {name: each for name, each in modalities.items() if name not in signals}
        self.encoders = vector_encoders(others, plan)
        self.encoders.update(signal_encoders(modalities, signals, plan))
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
    signals: Mapping[str, int] = MappingProxyType({}),
) -> VolumeClassifier:
    """Build it.

    Args:
        modalities: images, one at least, and tables.
        heads: classifications and survivals.
        channels: a level of every network.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        signals: tables whose columns are the samples of a signal, lead after lead, in the columns'
            alphabetical order: name -> number of leads.
    """
    need_image(modalities, "volume_classifier")
    refuse_segmentation(heads, "volume_classifier")
    return VolumeClassifier(modalities, heads, Plan(dims, channels, groups), signals)
