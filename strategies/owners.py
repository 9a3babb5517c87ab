"""Sums over owners: the one loop under every averaging strategy.

A group is averaged only over the sites that sent it, by how many of their cases used it. The
sum is taken as the updates pass, in place: one vector a group, whatever the number of sites,
and one pass over an update's memory. The first update of a group becomes its sum, so nothing
has to know the groups beforehand.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from protocol.update import Update, Vectors


@dataclass
class OwnerSum:
    """Over a group's owners so far: `vector` = sum of n * scale * delta, `weight` = sum of n."""

    vector: Tensor
    weight: float

    def mean(self) -> Tensor:
        """Divide in place; `vector` is spent."""
        return self.vector.div_(self.weight)


Sums = dict[str, OwnerSum]
"""Group -> its sum. A group that nobody sent is absent, so there is nothing to divide by zero."""


def accumulate(sums: Sums, vectors: Vectors, counts: Mapping[str, int], scale: float = 1.0) -> None:
    """Add one site's `vectors` to `sums`, each `counts[group]` times `scale`.

    A group of no case (count 0) is not the site's and is left out.
    """
    for group, vector in vectors.items():
        count = counts[group]
        if group in sums:
            sums[group].vector.add_(vector, alpha=count * scale)
            sums[group].weight += count
        elif count:
            sums[group] = OwnerSum(vector * (count * scale), count)


def owner_sums(updates: Iterable[Update]) -> Sums:
    """Sum the deltas of all updates."""
    sums: Sums = {}
    for update in updates:
        accumulate(sums, update.deltas, update.counts)
    return sums


def move(parameters: Vectors, sums: Sums, rate: float = 1.0) -> None:
    """Add `rate` times the owner mean to `parameters`, in place and in one pass."""
    for group, total in sums.items():
        parameters[group].add_(total.vector, alpha=rate / total.weight)
