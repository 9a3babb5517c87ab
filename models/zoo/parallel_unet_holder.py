"""The parallel U-Net whose features of some modalities are to tell those of all.

    Robust brain tumour segmentation with Hoelder divergence and mutual information
    (code: github.com/Lboy11/Brain-Tumor-Segmentation). The bound on mutual information is that of
    Ahn et al.: Variational Information Distillation for Knowledge Transfer. CVPR 2019.

    network     `parallel_unet`: deepest map F_m of each modality, mean of logits
    F_S         mean of F_m over the subset S of what the case has;  F  the same over all of it
    pretext     mean over all non-empty S of  mean over channels c and space of
                    ((g(F_S)_c - F_c)^2 / v_c + log v_c) / 2

which is, but for a constant, minus the lower bound on the mutual information of F and F_S where
F given F_S is normal around g(F_S). `g` is three 1x1 convolutions, `v_c` learned from 5 on, and F is
a target only: no gradient flows into it. The other half of the loss is the objective of the
segmentation, `dice_holder` or, as released, `dice_pseudo_holder`.

A case has 2^n - 1 subsets of its own n images, so a site enumerates what it holds.

Departures: g and v are trained, which the released code forgets; the segmentation's loss is not
summed over all subsets in a step but over steps, each on what `modality_dropout` leaves (at 0.5 every
subset is nearly as likely); the encoder runs a second time for the pretext.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal
from models.fits import need_image
from models.fusion import masked_mean
from models.heads import pretexts_of
from models.masking import Seen
from models.tokens import Learned
from models.unet import CONVOLUTION, Channels, Dims, Groups, Plan
from models.zoo.parallel_unet import ParallelUNet
from protocol.errors import RecipeError
from protocol.groups import head_group
from protocol.recipe import Head, Modality

_FIRST_VARIANCE, _LEAST_VARIANCE = 5.0, 1e-5


class HolderUNet(MultiModal):
    """A parallel U-Net, and a regressor for each pretext."""

    pretexts = ("own",)

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan) -> None:
        """Take what `ParallelUNet` takes."""
        super().__init__(modalities)
        self.unet = ParallelUNet(modalities, heads, plan)
        groups = [head_group(name) for name in pretexts_of(heads)]
        self.regressors = nn.ModuleDict({g: Regressor(plan.dims, plan.channels[-1]) for g in groups})

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        return self.unet.predict(seen)

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return pretext -> how badly subsets of the case's images tell of all of them, `(B, 1)`."""
        if not self.regressors:
            return {}
        features = {name: levels[-1] for name, levels in self.unet.levels(seen).items()}
        return {
            group.removeprefix(head_group("")): _missed(regressor, features, seen, draw)[:, None]
            for group, regressor in self.regressors.items()
        }


class Regressor(nn.Module):
    """`(B, C, ...)` of a subset -> the negative log-likelihood of all modalities' map, `(B,)`."""

    def __init__(self, dims: int, channels: int) -> None:
        """Begin with variance 5 in each channel."""
        super().__init__()
        first, second, third = (CONVOLUTION[dims](channels, channels, 1) for _ in range(3))
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        self.spread = Learned(channels)
        nn.init.constant_(self.spread.vector.weight, math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE)))

    def forward(self, some: Tensor, whole: Tensor) -> Tensor:
        """Compare what `some` tells with `whole`, both `(B, C, ...)`."""
        variance = functional.softplus(self.spread(len(some), 1)[:, 0]) + _LEAST_VARIANCE  # (B, C)
        errors = (self.layers(some) - whole).square().flatten(2).mean(2)  # (B, C)
        return (errors / variance + variance.log()).mean(1) / 2


def subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return every non-empty subset."""
    names = tuple(names)
    return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def _missed(
    regressor: nn.Module, features: Mapping[str, Tensor], seen: Mapping[str, Seen], draw: Tensor
) -> Tensor:
    """Average the regressor's losses over the subsets that each case has; 0 where it has none."""
    total, count = torch.zeros(len(draw), device=draw.device), torch.zeros_like(draw)
    if not features:
        return total
    shape = next(iter(features.values())).shape
    whole = masked_mean(features, seen, shape).detach()
    for subset in subsets(features):
        holds = torch.stack([seen[name].has for name in subset]).all(0)
        some = masked_mean({name: features[name] for name in subset}, seen, shape)
        total = total + torch.where(holds, regressor(some, whole), 0.0)
        count = count + holds
    return total / count.clamp(min=1)


def parallel_unet_holder(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64, 128),
    groups: Groups = 8,
    dims: Dims = 2,
) -> HolderUNet:
    """Build it: `channels` a level, at most `groups` groups of a norm, `dims` of the images.

    Raises RecipeError where there is nothing but pretexts: features that need tell nothing else
    tell each other best by being constant.
    """
    need_image(modalities, "parallel_unet_holder")
    if set(pretexts_of(heads)) == set(heads):
        raise RecipeError(
            "heads: the pretext of 'parallel_unet_holder' steadies another head and learns nothing alone; "
            "add a segmentation, or pre-train with bm_mae"
        )
    return HolderUNet(modalities, heads, Plan(dims, channels, groups))
