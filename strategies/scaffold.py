"""SCAFFOLD: control variates against client drift.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning, ICML 2020, algorithm 1, option II. `c` is the server's control, `c_i` the
site's own, both zero at first; K local steps of rate eta take x to y.

    each local step   gradient + c - c_i
    at the end        c_i' = c_i - c + (x - y) / (K eta)         sent: c_i' - c_i
    at the server     x <- x + server_rate * mean(y - x)
                      c <- c + participation * mean(c_i' - c_i)

`participation` is the paper's |S|/N, the share of sites asked in a round (the recipe's
`roster.fraction`). Means are owner means by count, where the paper's sites count alike: then c
stays the same weighted mean of the c_i as x is of the y. (x - y)/(K eta) is a mean gradient only
for plain SGD: use no momentum and no weight decay at the sites.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from protocol.recipe import Positive, Share
from protocol.update import Update, Vectors
from strategies.base import Finished, Local, Memory, State, Strategy, initial
from strategies.owners import OwnerSums


def scaffold(*, server_rate: Positive = 1.0, participation: Share = 1.0) -> Strategy:
    """FedAvg whose sites know where the others go."""

    def step(state: State, updates: Iterable[Update]) -> State:
        deltas, controls = OwnerSums(state.spare["deltas"]), OwnerSums(state.spare["control"])
        for update in updates:
            deltas.add(update.deltas, update.counts)
            controls.add(update.extras["control"], update.counts)
        deltas.move(state.parameters, server_rate)
        controls.move(state.memory["control"], participation)
        return state

    return Strategy(_init, step, sends=("control",), local=Local(_correct, _finish))


def _init(parameters: Vectors) -> State:
    return initial(parameters, "control")


def _correct(  # noqa: PLR0917 - the hook's signature
    group: str, grad: Tensor, here: Tensor, start: Tensor, received: Memory, memory: Memory
) -> None:
    del here, start
    grad.add_(received["control"][group])
    own = memory.get("control", {})
    if group in own:
        grad.sub_(own[group])


def _finish(  # noqa: PLR0917 - the hook's signature
    start: Vectors, here: Vectors, received: Memory, memory: Memory, steps: float, rate: float
) -> Finished:
    own = memory.get("control", {})
    change = {g: (start[g] - y).div_(steps * rate).sub_(received["control"][g]) for g, y in here.items()}
    after = {g: own.get(g, torch.zeros_like(delta)) + delta for g, delta in change.items()}
    return {"control": change}, {"control": own | after}
