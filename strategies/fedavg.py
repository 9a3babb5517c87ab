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
from strategies.owners import OwnerSums, owner_sums


def fedavg(*, weights: Annotated[str, one_of("count", "uniform", "zero_fill")] = "count") -> Strategy:
    """Average the updates over their owners, weighted by `weights`."""
    return Strategy(initial, {"count": average, "uniform": _uniform, "zero_fill": _zero_fill}[weights])


def average(state: State, updates: Iterable[Update]) -> State:
    """Move the parameters by the count-weighted owner mean."""
    owner_sums(updates, state.spare["deltas"]).move(state.parameters)
    return state


def _uniform(state: State, updates: Iterable[Update]) -> State:
    sums = OwnerSums(state.spare["deltas"])
    for update in updates:
        sums.add(update.deltas, dict.fromkeys(update.deltas, 1))
    sums.move(state.parameters)
    return state


def _zero_fill(state: State, updates: Iterable[Update]) -> State:
    sums = OwnerSums(state.spare["deltas"])
    cases = 0
    for update in updates:
        sums.add(update.deltas, update.counts)
        cases += max(update.counts.values(), default=0)
    sums.weights = dict.fromkeys(sums.weights, cases)
    sums.move(state.parameters)
    return state
