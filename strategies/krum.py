"""Multi-Krum: average the updates that others resemble.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent, NeurIPS 2017. Per group, among its n owners, of whom f may lie:

    score_i = sum of |delta_i - delta_j|^2 over the n - f - 2 nearest j
    x[g] <- x[g] + mean of the m deltas with the least scores

`m = 1` is Krum; by default m = n - f - 2, the most for which all of the chosen are known to be
safe (El Mhamdi, Guerraoui, Rouault, ICML 2018). The guarantee needs n >= 2f + 3: a group with
fewer owners takes the coordinate-wise median. Unweighted, see `strategies.robust`.
"""

import torch
from torch import Tensor

from protocol.recipe import Count, Natural
from strategies.base import Strategy
from strategies.median import middle
from strategies.networks import BLOCK
from strategies.robust import combine, robust


def krum(*, f: Natural = 1, m: Count | None = None) -> Strategy:
    """Move each group by the mean of the `m` owners' deltas that lie closest to others."""

    def rule(rows: list[Tensor]) -> Tensor:
        near = len(rows) - f - 2
        if near < f + 1:
            return middle(rows)
        scores = squared_distances(rows).sort().values[:, 1 : near + 1].sum(1)
        chosen = scores.argsort(stable=True)[: min(m or near, near)].tolist()
        return combine([rows[i] for i in chosen], [1.0] * len(chosen))

    return robust(rule)


def squared_distances(rows: list[Tensor]) -> Tensor:
    """Return |a - b|^2 of every two vectors `(size,)`: float64 `(n, n)`, zeros on the diagonal."""
    n, size = len(rows), len(rows[0])
    pairs = torch.zeros(n * (n - 1) // 2, dtype=torch.float64)
    for start in range(0, size, BLOCK):
        block = torch.stack([row[start : start + BLOCK] for row in rows])
        pairs += torch.pdist(block).double().square_()
    i, j = torch.triu_indices(n, n, 1)
    table = torch.zeros(n, n, dtype=torch.float64)
    table[i, j] = table[j, i] = pairs
    return table
