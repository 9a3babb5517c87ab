"""FedMEMA's network: what a case lacks is made up for from anchors, which full cases have left.

    Dai, Wei, Liu, Sun, Wang, Zheng: Federated Modality-specific Encoders and Multimodal Anchors for
    Personalized Brain Tumor Segmentation, AAAI 2024 (arXiv 2403.11803; code: github.com/QDaiing/FedMEMA).

    network     `encoders_unet`: deepest map of each modality, F their mean
    a_c         anchor: a parameter for each class c, and for none
    anchoring   a case with all images:     F as it is
                a case that lacks some:     F + W_o softmax((W_q F)^T W_k a / sqrt(D)) W_v a    voxel by voxel
    pretext     sum over the classes c, of a case with all images, of |sg(z_c) - a_c|^2 / 2

with z_c the mean of F where the network sees class c, of norm 1 (`models.classes`), and sg what no gradient
goes into: a_c comes to rest at the mean of z_c over all full cases. Whose say in the anchors counts, and who
keeps a decoder of its own, is `strategies.fedmema`'s. A hospital without a full case learns from the anchors
and teaches none.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.classes import class_chances, class_means, classes_of, half_squares
from models.fits import need_image, need_segmentation
from models.heads import pretexts_of
from models.masking import Seen, rows
from models.tokens import Learned
from models.unet import Channels, Dims, Groups, Plan
from models.zoo.encoders_unet import EncodersUNet
from protocol.groups import head_group
from protocol.recipe import Head, Modality


class FedMEMA(EncodersUNet):
    """Encoders by modality, and cross-attention of their mean to anchors."""

    pretexts = ("own",)

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan) -> None:
        """Build what `EncodersUNet` builds; with a pretext, anchors and attention to them."""
        super().__init__(modalities, heads, plan)
        self.outlined, classes = classes_of(heads)
        self.size, groups = plan.channels[-1], [head_group(name) for name in pretexts_of(heads)]
        # Under this name the strategy finds them: `protocol.groups.ANCHORS`.
        self.anchors = nn.ModuleDict({group: Learned(classes * self.size) for group in groups})
        self.attend = Attend(self.size) if groups else None

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits and pretext -> costs `(B, 1)`, of one pass of the encoders."""
        levels = self.levels(seen)
        fused = self.fused(levels, seen)
        outputs = self.read(levels, fused, seen)
        if not self.anchors:
            return outputs
        chances = class_chances([outputs[name] for name in self.outlined], self.plan)
        means, much = class_means(fused[-1].detach(), chances)
        for group in self.anchors:
            costs = (half_squares(means, self._anchors(group, len(means))) * much).sum(1)
            cost = torch.where(self._full(seen), costs, 0.0)
            outputs[group.removeprefix(head_group(""))] = cost[:, None]
        return outputs

    def fused(self, levels: Mapping[str, list[Tensor]], seen: Mapping[str, Seen]) -> list[Tensor]:
        """Return the mean of what is present at each scale, the last made up for by the anchors."""
        fused = super().fused(levels, seen)
        if self.attend is None:
            return fused
        full, last = self._full(seen), fused[-1]
        with torch.no_grad():  # what is anchored does not move the anchors
            anchors = torch.cat([self._anchors(group, len(full)) for group in self.anchors], 1)
        return [*fused[:-1], torch.where(rows(full, last), last, last + self.attend(last, anchors))]

    def _full(self, seen: Mapping[str, Seen]) -> Tensor:
        return torch.stack([seen[name].has for name in self.images]).all(0)

    def _anchors(self, group: str, cases: int) -> Tensor:
        return self.anchors[group](cases, 1).view(cases, -1, self.size)


class Attend(nn.Module):
    """A map `(B, D, ...)` and anchors `(B, K, D)` -> what each voxel takes from them, `(B, D, ...)`."""

    def __init__(self, size: int) -> None:
        """Begin with taking nothing."""
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Attend from every voxel, by itself."""
        query = self.query(x.flatten(2).transpose(1, 2))  # (B, V, D)
        likeness = query @ self.key(anchors).transpose(1, 2) / x.shape[1] ** 0.5  # (B, V, K)
        taken = self.out(likeness.softmax(2) @ self.value(anchors))
        return taken.transpose(1, 2).view_as(x)


def fedmema(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
) -> FedMEMA:
    """Build it.

    Args:
        modalities: one image or more; tables for heads that outline nothing.
        heads: with a pretext, whose objective is `own`, at least one segmentation.
        channels: a level of the encoders.
        groups: the most groups of a norm.
        dims: dimensions of the images.
    """
    need_image(modalities, "fedmema")
    need_segmentation(heads, "fedmema")
    return FedMEMA(modalities, heads, Plan(dims, channels, groups))
