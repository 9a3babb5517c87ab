"""Cross-D: hospitals with slices and hospitals with volumes train the same kernels.

    Yavuz, Yang: Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting
    Operation. 2024 (arXiv 2411.02441; code: github.com/convergedmachine/Cross-D-Conv).

    levels    Cross-D convolution (`models.crossed`), GroupNorm, ReLU; halved between two
    heads     linear, on the mean over the present modalities of the last map, averaged over space

Kernels are shared, by whoever has an image. What turns them for slices belongs to the modality, and so do
the norms: a hospital of volumes alone neither trains nor receives a turn.

Departures: a few levels in place of a ResNet-18; no normalisation inside a turn (BatchNorm there).
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

from models.base import MultiModal
from models.crossed import CrossLayer
from models.encoders import encoded, images_of, table_encoders
from models.fits import need_image, refuse_segmentation
from models.fusion import masked_mean
from models.heads import predictions, vector_heads
from models.masking import Seen
from models.unet import AVERAGE, Channels, Dims, Groups, Plan, padded, pooled
from protocol.errors import RecipeError
from protocol.groups import modality_group
from protocol.recipe import Head, Modality


class CrossDim(MultiModal):
    """One pyramid for images of two and of three dimensions."""

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plans: Mapping[str, Plan]
    ) -> None:
        """Take every image's plan; they differ in their dimensions alone."""
        super().__init__(modalities)
        self.plans, plan = plans, next(iter(plans.values()))
        owners = [modality_group(name) for name in plans]
        flat = [modality_group(name) for name, each in plans.items() if each.dims == 2]  # noqa: PLR2004
        self.levels = nn.ModuleList(
            CrossLayer(before, after, plan.groups, owners, flat)
            for before, after in pairwise((1, *plan.channels))
        )
        self.tables = table_encoders(modalities, plan.channels[-1])
        self.heads = vector_heads(heads, plan.channels[-1])
        self.size = plan.channels[-1]

    @property
    def axes(self) -> int:
        """Spatial axes of its images, the most of any: kernels have three even for slices."""
        return max(plan.dims for plan in self.plans.values())

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        vectors = {name: self._vector(name, seen[name].x) for name in self.plans if seen[name].anybody}
        vectors |= encoded(self.tables, seen)
        cases = len(next(iter(seen.values())).x)
        return predictions(self.heads, masked_mean(vectors, seen, (cases, self.size)))

    def _vector(self, name: str, x: Tensor) -> Tensor:
        plan = self.plans[name]
        x = padded(x, plan)
        for place, level in enumerate(self.levels):
            x = level(AVERAGE[plan.dims](x, 2) if place else x, modality_group(name))
        return pooled(x)


def cross_dim(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    groups: Groups = 8,
    dims: Dims = 2,
    volumes: tuple[str, ...] = (),
) -> CrossDim:
    """Build it.

    Args:
        modalities: images, of two dimensions or of three, and tables.
        heads: classifications and survivals.
        channels: a level.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        volumes: images that have three dimensions whatever `dims` says.
    """
    need_image(modalities, "cross_dim")
    refuse_segmentation(heads, "cross_dim")
    images = images_of(modalities)
    for name in volumes:
        if name not in images:
            raise RecipeError(
                f"model.volumes: '{name}' is no image of this recipe; name some of {', '.join(images)}"
            )
    plan = Plan(dims, channels, groups)
    plans = {name: replace(plan, dims=3) if name in volumes else plan for name in images}
    return CrossDim(modalities, heads, plans)
