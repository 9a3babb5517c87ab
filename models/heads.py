"""Output layers, one a head, each owned by the sites that have the label.

A segmentation reads a feature map through a 1x1 convolution, a classification or survival a feature
vector through a linear layer. Both are affine and their inputs are means over modalities,
so the result *is* the mean of the logits that each modality alone would give.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.unet import CONVOLUTION
from protocol.groups import head_group
from protocol.recipe import Head


def output_channels(head: Head) -> int:
    """Logits of a head: a survival has one, whatever `classes` says."""
    return 1 if head.kind == "survival" else head.classes


def map_heads(heads: Mapping[str, Head], dims: int, channels: int) -> nn.ModuleDict:
    """Return the layers of the segmentation heads, from maps of `channels`."""
    layer, wanted = CONVOLUTION[dims], outlines_of(heads)
    return nn.ModuleDict({head_group(n): layer(channels, output_channels(h), 1) for n, h in wanted.items()})


def vector_heads(heads: Mapping[str, Head], size: int) -> nn.ModuleDict:
    """Return the layers of the classification and survival heads, from vectors of `size`."""
    wanted = _chosen(heads, "classification", "survival")
    return nn.ModuleDict({head_group(n): nn.Linear(size, output_channels(h)) for n, h in wanted.items()})


def predictions(layers: nn.ModuleDict, features: Tensor) -> dict[str, Tensor]:
    """Return head -> logits of every layer on the same features."""
    return {group.removeprefix(head_group("")): layer(features) for group, layer in layers.items()}


def log_chances(head: Head, logits: Tensor) -> Tensor | None:
    """Return log-probabilities, each voxel's, channel's or case's `K` adding to 1: `(B, ..., K)`.

    None for a head that gives none: a survival's risk, a pretext's loss.
    """
    if head.kind == "classification" and head.classes > 1:
        return logits.log_softmax(1)
    if head.kind in {"classification", "segmentation"}:
        return torch.stack([functional.logsigmoid(logits), functional.logsigmoid(-logits)], -1)
    return None


def outlines_of(heads: Mapping[str, Head]) -> dict[str, Head]:
    """Return the segmentation heads."""
    return _chosen(heads, "segmentation")


def pretexts_of(heads: Mapping[str, Head]) -> tuple[str, ...]:
    """Return the names of the pretexts, whose outputs are a model's own affair."""
    return tuple(_chosen(heads, "pretext"))


def _chosen(heads: Mapping[str, Head], *kinds: str) -> dict[str, Head]:
    return {name: head for name, head in heads.items() if head.kind in kinds}
