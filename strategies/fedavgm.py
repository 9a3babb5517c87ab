"""FedAvgM: momentum at the server.

Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification, 2019 (arXiv 1909.06335).

    m <- momentum * m + mean(delta)
    x <- x + server_rate * m

`momentum = 0, server_rate = 1` is FedAvg. A group that nobody sent coasts no further: neither
its parameters nor its momentum move.
"""

from collections.abc import Iterable

from protocol.recipe import BelowOne, Positive
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial
from strategies.owners import owner_sums


def fedavgm(*, momentum: BelowOne = 0.9, server_rate: Positive = 1.0) -> Strategy:
    """FedAvg with a heavy ball."""

    def step(state: State, updates: Iterable[Update]) -> State:
        for group, mean in owner_sums(updates, state.spare["deltas"]).means():
            ball = state.memory["momentum"][group]
            ball.mul_(momentum).add_(mean)
            state.parameters[group].add_(ball, alpha=server_rate)
        return state

    return Strategy(_init, step)


def _init(parameters: Vectors) -> State:
    return initial(parameters, "momentum")
