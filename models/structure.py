"""How well an outline keeps to the structure of the true one: M2SNet's loss.

    w = 1 + 5 |blur(y) - y|                      `blur` is the mean over a window around each voxel
    at_edges = sum(w bce) / sum(w)  +  1 - (sum(w p y) + 1) / (sum(w (p + y - p y)) + 1)
    unlike   = over four scales, each half as fine, the sum of the mean squares of p - y

Of every case by itself, and the mean over its channels. `at_edges` is F3Net's (Wei et al., AAAI 2020).
For `unlike` M2SNet (Zhao et al., arXiv 2303.10894) compares features of a network trained on photographs.
Means need no network, and are 0 just where the prediction is right as well.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.unet import AVERAGE, windowed

_SCALES = 4


def at_edges(logits: Tensor, truth: Tensor, window: int) -> Tensor:
    """Return the weighted cross-entropy and overlap of `(B, C, X, Y[, Z])`: `(B,)`."""
    weight, chance = edges(truth, window), logits.sigmoid()
    error = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    parts = (weight, weight * error, weight * chance * truth, weight * (chance + truth - chance * truth))
    weighed, wrong, both, either = (part.flatten(2).sum(2) for part in parts)
    return (wrong / weighed + 1 - (both + 1) / (either + 1)).mean(1)


def edges(truth: Tensor, window: int) -> Tensor:
    """Return every voxel's weight of masks `(B, C, X, Y[, Z])`: 1 away from edges, below 6."""
    # Nothing is known of what lies around an image: its border is no edge, as it is in F3Net's code.
    blurred = windowed(truth, window) / windowed(torch.ones_like(truth), window)
    return 1 + 5 * (blurred - truth).abs()


def unlike(chance: Tensor, truth: Tensor) -> Tensor:
    """Return how differently `(B, C, X, Y[, Z])` look at every scale: `(B,)`."""
    difference, total = chance - truth, torch.zeros(len(chance), dtype=chance.dtype, device=chance.device)
    for scale in range(_SCALES):
        if scale:
            halving = [min(2, side) for side in difference.shape[2:]]
            difference = AVERAGE[len(halving)](difference, halving, ceil_mode=True)
        total = total + difference.square().flatten(1).mean(1)
    return total
