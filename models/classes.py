"""What the classes of a segmentation look like to a network: the mean of its features where each class is.

    class_chances   at every voxel, the chance of each class and of none
    class_means     their means over a case, of length 1, and how much of each class there is

Where a class is, the network's own logits say: no label enters a network, and a case without one
takes part.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.unet import AVERAGE, Plan, padded
from protocol.recipe import Head


def classes_of(heads: Mapping[str, Head]) -> tuple[tuple[str, ...], int]:
    """Return the segmentations, and how many classes they have together, none of them being one."""
    outlined = {name: head.classes for name, head in heads.items() if head.kind == "segmentation"}
    return tuple(outlined), sum(outlined.values()) + 1


def class_chances(logits: Sequence[Tensor], plan: Plan) -> Tensor:
    """Return the chances of K classes and, last, of none of them, at the deepest level: `(B, K + 1, ...)`.

    `logits`: a segmentation's `(B, C, X, Y[, Z])` each, K channels together. No gradient goes back.
    """
    found = torch.cat(tuple(logits), 1).detach().sigmoid()
    chances = torch.cat([found, (1 - found).prod(1, keepdim=True)], 1)
    return AVERAGE[plan.dims](padded(chances, plan), 2 ** (len(plan.channels) - 1))


def class_means(features: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """Return each class's mean feature, of norm 1, and its number of voxels up to 1.

    Args:
        features: `(B, D, ...)`.
        chances: `(B, K, ...)` over the same voxels.

    Returns:
        `(B, K, D)` and `(B, K)`.
    """
    sums = torch.einsum("bdv,bkv->bkd", features.flatten(2), chances.flatten(2))
    return functional.normalize(sums, dim=2), chances.flatten(2).sum(2).clamp(max=1)


def half_squares(one: Tensor, other: Tensor) -> Tensor:
    """Return half of the squared distance of vectors `(..., D)`: `(...)`."""
    return (one - other).square().sum(-1) / 2
