"""Sums over owners: the one loop under every averaging strategy.

A group is averaged only over the sites that sent it, by how many of their cases used it. The
sum is taken as the updates pass, in place: one vector a group, whatever the number of sites,
and one pass over an update's memory.

Touching fresh memory for the first time costs as much as a pass over it, so a sum is written
over the last round's: `State.spare` carries the vectors from round to round.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from protocol.update import Update, Vectors
from strategies.base import sender

Sent = dict[str, tuple[Tensor, int]]
"""Site -> (how it moved a group `(size,)`, its cases of it)."""


class OwnerSums:
    """For each group, over its owners so far: the sum of n * scale * vector, and of n.

    `vectors`   group -> sum `(size,)`; before its first owner, whatever the last round left
    `weights`   group -> sum of n; only groups that somebody sent, so nothing divides by zero
    """

    def __init__(self, spare: Vectors) -> None:
        self.vectors = spare
        self.weights: dict[str, float] = {}

    def add(self, vectors: Vectors, counts: Mapping[str, float], scale: float = 1.0) -> None:
        """Add one site's `vectors`, each `counts[group] * scale` times.

        A group of no case (count 0) is not the site's and is left out.
        """
        for group, vector in vectors.items():
            count = counts[group]
            if group in self.weights:
                self.vectors[group].add_(vector, alpha=count * scale)
                self.weights[group] += count
            elif count:
                self.vectors.setdefault(group, torch.empty_like(vector))
                torch.mul(vector, count * scale, out=self.vectors[group])
                self.weights[group] = count

    def means(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (group, owner mean); the sums become the means."""
        for group, weight in self.weights.items():
            yield group, self.vectors[group].div_(weight)

    def move(self, parameters: Vectors, rate: float = 1.0) -> None:
        """Add `rate` times the owner mean to `parameters`, in place and in one pass."""
        for group, weight in self.weights.items():
            parameters[group].add_(self.vectors[group], alpha=rate / weight)


def owner_sums(updates: Iterable[Update], spare: Vectors) -> OwnerSums:
    """Sum the deltas of all updates into the memory of `spare`."""
    sums = OwnerSums(spare)
    for update in updates:
        sums.add(update.deltas, update.counts)
        del update  # or it would stand beside the next, which is on its way
    return sums


def by_group(updates: Iterable[Update]) -> dict[str, Sent]:
    """Return, once all have come, group -> owner -> (its delta `(size,)`, its cases)."""
    found: dict[str, Sent] = {}
    for update in updates:
        for group, delta in update.deltas.items():
            if update.counts[group]:
                found.setdefault(group, {})[sender(update)] = delta.clone(), update.counts[group]
    return found
