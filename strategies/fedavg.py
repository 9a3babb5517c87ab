"""FedAvg by owner.

McMahan, Moore, Ramage, Hampson, Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017.

    x[g] <- x[g] + sum_i w[i, g] * delta_i[g]

Three rules for the weights, to compare on one recipe:

    count       w = n[i, g] / sum of n[., g] over the owners of g         (default)
    uniform     w = 1 / number of owners of g
    zero_fill   w = n[i, g] / sum of all sites' cases: a site that lacks g counts as one that
                sent zero, so the fewer own g, the slower it learns (what a platform does
                that does not know owners)
"""

from collections.abc import Iterable
from typing import Annotated

from protocol.typed import one_of
from protocol.update import Update
from strategies.base import State, Strategy, initial
from strategies.owners import Sums, accumulate, move, owner_sums


def fedavg(*, weights: Annotated[str, one_of("count", "uniform", "zero_fill")] = "count") -> Strategy:
    """Average the updates over their owners, weighted by `weights`."""
    return Strategy(initial, {"count": average, "uniform": _uniform, "zero_fill": _zero_fill}[weights])


def average(state: State, updates: Iterable[Update], rate: float = 1.0) -> State:
    """Move the parameters by `rate` times the count-weighted owner mean."""
    move(state.parameters, owner_sums(updates), rate)
    return state


def _uniform(state: State, updates: Iterable[Update]) -> State:
    sums: Sums = {}
    for update in updates:
        accumulate(sums, update.deltas, dict.fromkeys(update.deltas, 1))
    move(state.parameters, sums)
    return state


def _zero_fill(state: State, updates: Iterable[Update]) -> State:
    sums: Sums = {}
    cases = 0
    for update in updates:
        accumulate(sums, update.deltas, update.counts)
        cases += max(update.counts.values(), default=0)
    for total in sums.values():
        total.weight = cases
    move(state.parameters, sums)
    return state
