"""What robust rules share: they see every owner's vector at once, each owner alike.

A rule that resists a lying site cannot weigh sites by the cases they claim, and cannot stream:
memory grows by one model for each reply. Each group is decided among its owners alone.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from protocol.update import Update
from strategies.base import State, Strategy, initial

Rule = Callable[[list[Tensor]], Tensor]
"""One group's vectors `(size,)`, one an owner -> the vector `(size,)` that the group moves by."""


def robust(rule: Rule) -> Strategy:
    """Move each group by `rule` of its owners' deltas."""

    def step(state: State, updates: Iterable[Update]) -> State:
        for group, rows in _gather(updates).items():
            state.parameters[group].add_(rule(rows))
        return state

    return Strategy(initial, step)


def combine(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of vectors `(size,)` with one vector more in memory."""
    total = torch.zeros_like(rows[0])
    for row, weight in zip(rows, weights, strict=True):
        total.add_(row, alpha=weight / sum(weights))
    return total


def _gather(updates: Iterable[Update]) -> dict[str, list[Tensor]]:
    rows: dict[str, list[Tensor]] = {}
    for update in updates:
        for group, delta in update.deltas.items():
            if update.counts[group]:
                rows.setdefault(group, []).append(delta.clone())
    return rows
