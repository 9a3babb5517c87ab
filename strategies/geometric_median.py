"""Geometric median: RFA, robust federated aggregation.

Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE Transactions on
Signal Processing 2022. The point with the least sum of distances to the owners' deltas, by the
smoothed Weiszfeld algorithm:

    repeat   w_i = 1 / max(smoothing, |z - delta_i|),   z <- sum_i w_i delta_i / sum_i w_i
    x[g] <- x[g] + z

Holds while fewer than half of a group's owners lie. Two changes to the paper: owners count
alike (see `strategies.robust`), and z starts at the coordinate-wise median instead of the mean,
which one site could throw further out than a few iterations bring back.
"""

import torch
from torch import Tensor

from protocol.recipe import Count, Positive
from strategies.base import Strategy
from strategies.median import middle
from strategies.robust import combine, robust


def geometric_median(*, iterations: Count = 8, smoothing: Positive = 1e-6) -> Strategy:
    """Move each group by the geometric median of its owners' deltas."""

    def rule(rows: list[Tensor]) -> Tensor:
        center = middle(rows)
        for _ in range(iterations):
            weights = [1 / max(smoothing, float(torch.dist(center, row))) for row in rows]
            center = combine(rows, weights)
        return center

    return robust(rule)
