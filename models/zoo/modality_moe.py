"""MedMoE: one backbone, an expert for each modality, and a router that recognises them.

    Chopra, Sanchez-Rodriguez, Mao et al.: MedMoE: Modality-Specialized Mixture of Experts for Medical
    Vision-Language Understanding. 2025 (arXiv 2506.08356; code: github.com/shivangchopra11/MedMoE).

    levels    f_m = backbone(x_m), one map a scale            shared
    router    r_m = router(mean of the deepest map)           trained to say m
    expert    e = argmax of r_m; z_m = mean over space of expert_e(f_m), see `experts.ScaleExpert`
    heads     linear, on the mean of z_m over the present m

A hospital lacks experts as it lacks modalities, so an image is routed among the experts of the modalities
that its case has. The router is the pretext's (`kind: pretext`, weight 2 in the paper): whoever has an image
knows what it is. Without a pretext there is no router, and every image goes to its own modality's expert.

Departures: no text and no contrast of images and reports; a convolutional backbone in place of Swin;
nearest-neighbour places in place of interpolated tokens; cross-entropy of the logits, where the code
takes it of probabilities. Tables go past the experts.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import encoded, images_of, table_encoders
from models.experts import Router, ScaleExpert, chosen, route_loss, top_one
from models.fits import need_image, refuse_segmentation
from models.fusion import masked_mean
from models.heads import predictions, pretexts_of, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Encoder, Groups, Plan, padded, pooled
from protocol.errors import RecipeError
from protocol.groups import head_group, modality_group
from protocol.recipe import Count, Head, Modality


class ModalityMoE(MultiModal):
    """A shared backbone, experts by modality; a router for the pretext, if there is one."""

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan, size: int
    ) -> None:
        """Build experts of `size` features, where a head reads them."""
        super().__init__(modalities)
        self.images, self.plan, self.size = images_of(modalities), plan, size
        self.backbone = Encoder(plan, 1)
        routers = {head_group(n): Router(plan.channels[-1], len(self.images)) for n in pretexts_of(heads)}
        self.routers = nn.ModuleDict(routers)
        self.heads = vector_heads(heads, size)
        owners = [modality_group(name) for name in self.images if self.heads]
        self.experts = nn.ModuleDict({owner: ScaleExpert(plan, size) for owner in owners})
        self.tables = table_encoders(modalities, size) if self.heads else nn.ModuleDict()

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        if not self.heads:
            return {}
        levels, has = self._levels(seen), self._has(seen)
        vectors = {name: self._expert(name, each, has) for name, each in levels.items()}
        vectors |= encoded(self.tables, seen)
        return predictions(self.heads, masked_mean(vectors, seen, (len(has), self.size)))

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return pretext -> how badly the router tells what a case's images are, `(B, 1)`."""
        del draw
        features = (
            {name: pooled(levels[-1]) for name, levels in self._levels(seen).items()} if self.routers else {}
        )
        return {
            group.removeprefix(head_group("")): route_loss(
                {self.images.index(name): router(x) for name, x in features.items()}, self._has(seen)
            )
            for group, router in self.routers.items()
        }

    def routed(self, name: str, levels: Sequence[Tensor], has: Tensor) -> Tensor:
        """Return which image's expert sees the image `name` of each case, int64 `(B,)`."""
        for router in self.routers.values():
            with torch.no_grad():  # the choice teaches the router nothing
                return chosen(router(pooled(levels[-1])), has)
        return torch.full((len(has),), self.images.index(name), device=has.device)

    def _expert(self, name: str, levels: Sequence[Tensor], has: Tensor) -> Tensor:
        choice = self.routed(name, levels, has)
        owners = [modality_group(image) for image in self.images]
        return pooled(
            top_one(
                lambda owner: self.experts[owner](levels), owners, choice, has[:, self.images.index(name)]
            )
        )

    def _levels(self, seen: Mapping[str, Seen]) -> dict[str, list[Tensor]]:
        images = {name: padded(seen[name].x, self.plan) for name in self.images if seen[name].anybody}
        return {name: self.backbone(x) for name, x in images.items()}

    def _has(self, seen: Mapping[str, Seen]) -> Tensor:
        return torch.stack([seen[name].has for name in self.images], 1)


def modality_moe(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    groups: Groups = 8,
    dims: Dims = 2,
    size: Count = 64,
) -> ModalityMoE:
    """Build it.

    Args:
        modalities: images, each with an expert, and tables.
        heads: classifications, survivals, and at most one pretext: the router.
        channels: a level of the backbone.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        size: features of an expert.
    """
    need_image(modalities, "modality_moe")
    refuse_segmentation(heads, "modality_moe")
    if len(pretexts_of(heads)) > 1:
        raise RecipeError(
            f"heads: 'modality_moe' has one router; keep one pretext of {list(pretexts_of(heads))}"
        )
    return ModalityMoE(modalities, heads, Plan(dims, channels, groups), size)
