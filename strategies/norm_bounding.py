"""Norm bounding: no site moves the model further than `bound`.

Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019
(arXiv 1911.07963).

    x <- x + mean(delta_i * min(1, bound / |delta_i|))        |.| over all groups of the update

The only robust rule here that streams in constant memory and weighs sites by their cases.
"""

import math
from collections.abc import Iterable

from protocol.recipe import Positive
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial
from strategies.owners import OwnerSums


def norm_bounding(*, bound: Positive = 1.0) -> Strategy:
    """FedAvg over updates shortened to an L2 norm of at most `bound`."""

    def step(state: State, updates: Iterable[Update]) -> State:
        sums = OwnerSums(state.spare["deltas"])
        for update in updates:
            norm = _norm(update.deltas)
            sums.add(update.deltas, update.counts, bound / max(norm, bound))
        sums.move(state.parameters)
        return state

    return Strategy(initial, step)


def _norm(vectors: Vectors) -> float:
    # One pass and no copy, where `Update.norm` is exact and pays a copy in double precision.
    return math.sqrt(sum(float(v.dot(v)) for v in vectors.values()))
