"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, algorithm 1.

    x[g] <- x[g] + mean of the owners' delta_i[g] without the k least and the k greatest
    k = trim * owners, rounded up, but something stays        element by element

Holds while at most a share `trim` of a group's owners lie. Rounded up, because with four owners
a `trim` of 0.2 rounded down would cut nobody. Unweighted, see `strategies.robust`.
"""

import math
from typing import Annotated

from torch import Tensor

from protocol.typed import Rule
from strategies.base import Strategy
from strategies.networks import middle_mean
from strategies.robust import robust

BelowHalf = Annotated[float, Rule("in [0, 0.5)", lambda value: 0 <= value < 0.5)]  # noqa: PLR2004 - both ends


def trimmed_mean(*, trim: BelowHalf = 0.2) -> Strategy:
    """Move each element by the mean of the owners' deltas without the share `trim` at both ends."""

    def rule(rows: list[Tensor]) -> Tensor:
        return middle_mean(rows, cut_of(trim, len(rows)))

    return robust(rule)


def cut_of(trim: float, owners: int) -> int:
    """Return how many of `owners` are cut at each end."""
    # The 1e-9 is for products such as 0.1 * 30, which is a little more than 3.
    return min(math.ceil(trim * owners - 1e-9), (owners - 1) // 2)
