"""Coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, algorithm 1.

    x[g] <- x[g] + median over owners of delta_i[g]           element by element

Holds while fewer than half of a group's owners lie. Unweighted, see `strategies.robust`. Of an
even number the two middle values are averaged.
"""

from torch import Tensor

from strategies.base import Strategy
from strategies.networks import middle_mean
from strategies.robust import robust


def median() -> Strategy:
    """Move each element by the middle one of the owners' deltas."""
    return robust(middle)


def middle(rows: list[Tensor]) -> Tensor:
    """Return the median of each element; `rows` are vectors `(size,)`."""
    return middle_mean(rows, (len(rows) - 1) // 2)
