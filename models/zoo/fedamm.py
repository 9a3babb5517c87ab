"""FedAMM's network: what a class looks like in each modality is learned by its owners, and known to all.

    FedAMM, segmentation of brain tumours under arbitrary missing modalities: paper 1764 of MICCAI 2025
    (code: github.com/13sky/FedAMM).

    network     `encoders_unet`: deepest map F_m of each modality, their mean is decoded
    z_mc        mean of F_m where the network sees class c, of norm 1     (`models.classes`)
    p_mc        prototype: a parameter
    pretext     mean over the modalities m of the case, sum over the classes c, of
                    (|sg(z_mc) - p_mc|^2 + distil |z_mc - mean over ALL modalities m' of sg(p_m'c)|^2) / 2

with sg what no gradient goes into. The first term is least where p_mc is the mean of z_mc over all cases. The
second draws what each modality says of a class towards what all of them say of it, those too that a hospital
does not have: their prototypes come from others. Prototypes are the pretext's group, which all hospitals
have; whose say in them counts is `strategies.fedamm`'s. They are learned by the gradient, and so are as
private as everything else.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from models.classes import class_chances, class_means, classes_of, half_squares
from models.fits import need_image, need_segmentation
from models.heads import pretexts_of
from models.masking import Seen
from models.tokens import Learned
from models.unet import Channels, Dims, Groups, Plan
from models.zoo.encoders_unet import EncodersUNet
from protocol.groups import head_group, taught_by
from protocol.recipe import Head, Modality, NotNegative


class FedAMM(EncodersUNet):
    """Encoders by modality, and a prototype of each class in each modality."""

    pretexts = ("own",)

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan, distil: float
    ) -> None:
        """Build what `EncodersUNet` builds, and for each pretext prototypes of all classes and of none."""
        super().__init__(modalities, heads, plan)
        self.outlined, classes = classes_of(heads)
        prototypes = {
            head_group(name): Prototypes(self.images, classes, plan.channels[-1], distil)
            for name in pretexts_of(heads)
        }
        self.prototypes = nn.ModuleDict(prototypes)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits and pretext -> costs `(B, 1)`, of one pass of the encoders."""
        levels = self.levels(seen)
        outputs = self.read(levels, self.fused(levels, seen), seen)
        if not self.prototypes:
            return outputs
        chances = class_chances([outputs[name] for name in self.outlined], self.plan)
        features = {name: each[-1] for name, each in levels.items()}
        return outputs | {
            group.removeprefix(head_group("")): each(features, seen, chances)[:, None]
            for group, each in self.prototypes.items()
        }


class Prototypes(nn.Module):
    """A vector for each class in each modality, and how far from them a case is."""

    def __init__(self, modalities: Iterable[str], classes: int, size: int, distil: float) -> None:
        """Begin near zero, which draws hardly anything."""
        super().__init__()
        self.shape, self.distil = (classes, size), distil
        self.of = nn.ModuleDict({taught_by(name): Learned(classes * size) for name in modalities})

    def forward(self, features: Mapping[str, Tensor], seen: Mapping[str, Seen], chances: Tensor) -> Tensor:
        """Return each case's mean over its modalities of both terms, `(B,)`; 0 where it has none.

        `features` `(B, size, ...)` leave out what nobody has; `chances` `(B, classes, ...)`.
        """
        cases = len(chances)
        with torch.no_grad():
            common = torch.stack([self._vectors(group, cases) for group in self.of]).mean(0)
        total, count = chances.new_zeros(cases), chances.new_zeros(cases)
        for name, feature in features.items():
            means, much = class_means(feature, chances)
            learned = half_squares(means.detach(), self._vectors(taught_by(name), cases))
            told = half_squares(means, common)
            cost = ((learned + self.distil * told) * much).sum(1)
            total = total + torch.where(seen[name].has, cost, 0.0)
            count = count + seen[name].has
        return total / count.clamp(min=1)

    def _vectors(self, name: str, cases: int) -> Tensor:
        return self.of[name](cases, 1).view(cases, *self.shape)


def fedamm(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
    distil: NotNegative = 1.0,
) -> FedAMM:
    """Build it.

    Args:
        modalities: one image or more; tables for heads that outline nothing.
        heads: with a pretext, whose objective is `own`, at least one segmentation.
        channels: a level of the encoders.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        distil: how much modalities follow what all say of a class, beside learning what each says.
    """
    need_image(modalities, "fedamm")
    need_segmentation(heads, "fedamm")
    return FedAMM(modalities, heads, Plan(dims, channels, groups), distil)
