"""What a site sends: an update, and its algebra.

An `Update` is `local - global`, one flat float32 vector a group, with the number of the
site's cases that used the group. It knows nothing of networks. For updates `u, v`, a
scalar `a` and an element-wise sum over the groups that either has:

    (u + v).deltas[g] = u.deltas[g] + v.deltas[g]       a group that one lacks counts as 0
    u.scaled(a).deltas[g] = a * u.deltas[g]
    norm(u)^2 = sum over g of |u.deltas[g]|^2           all groups are one vector
    counts add; scaling leaves them alone
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from protocol.errors import UpdateError

Vectors = dict[str, Tensor]
"""Group name -> flat float32 vector."""


@dataclass(frozen=True)
class Update:
    """One site's contribution to one round.

    `deltas`   group -> local - global, flat float32 `(size,)`
    `counts`   group -> training cases at the site that used the group (>= 1)
    `steps`    optimiser steps taken (FedNova's normaliser)
    `extras`   what a strategy's local part sends besides, e.g. SCAFFOLD's `control`:
               name -> group -> flat vector
    """

    deltas: Vectors
    counts: Mapping[str, int]
    steps: float = 0.0
    extras: Mapping[str, Vectors] = field(default_factory=dict)

    def __add__(self, other: "Update") -> "Update":
        """Sum by group; a group that one side lacks counts as zero."""
        groups = sorted(self.deltas.keys() | other.deltas.keys())
        counts = {g: self.counts.get(g, 0) + other.counts.get(g, 0) for g in groups}
        names = sorted(self.extras.keys() | other.extras.keys())
        extras = {n: _sum(self.extras.get(n, {}), other.extras.get(n, {})) for n in names}
        return Update(_sum(self.deltas, other.deltas), counts, self.steps + other.steps, extras)

    def scaled(self, factor: float) -> "Update":
        """`factor` times every vector; counts and steps stay."""
        extras = {name: _scale(vectors, factor) for name, vectors in self.extras.items()}
        return Update(_scale(self.deltas, factor), self.counts, self.steps, extras)

    def norm(self) -> float:
        """L2 norm of all groups as one vector."""
        return math.sqrt(sum(float(delta.double().square().sum()) for delta in self.deltas.values()))


def _scale(vectors: Vectors, factor: float) -> Vectors:
    return {group: vector * factor for group, vector in vectors.items()}


def _sum(left: Vectors, right: Vectors) -> Vectors:
    total = dict(left)
    for group, vector in right.items():
        total[group] = _added(total[group], vector, group) if group in total else vector
    return dict(sorted(total.items()))


def _added(left: Tensor, right: Tensor, group: str) -> Tensor:
    # Torch would broadcast a (1,) into a (3,) without a word.
    if left.shape != right.shape:
        raise UpdateError(f"group '{group}': {tuple(left.shape)} and {tuple(right.shape)} do not add")
    return left + right
