"""FedAdagrad, FedAdam, FedYogi: adaptive optimisers at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization,
ICLR 2021, algorithm 2. With d = mean(delta), element by element:

    m <- beta_1 m + (1 - beta_1) d
    v <- v + d^2                                            Adagrad
         beta_2 v + (1 - beta_2) d^2                        Adam
         v - (1 - beta_2) d^2 sign(v - d^2)                 Yogi
    x <- x + server_rate * m / (sqrt(v) + tau)

As in the paper there is no bias correction, and v starts at tau^2. The larger `tau`, the less
adaptive; the smaller, the more a coordinate moves by `server_rate` whatever its update. A group
that nobody sent keeps x, m and v.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from protocol.recipe import BelowOne, Positive
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial
from strategies.owners import owner_sums

MOMENTS = ("first_moment", "second_moment")

Second = Callable[[Tensor, Tensor], None]
"""`(v, square)`: take the squared mean update into the second moment, in place."""


def fedadagrad(*, server_rate: Positive = 0.1, beta_1: BelowOne = 0.0, tau: Positive = 1e-3) -> Strategy:
    """Scale by all squares so far: rates only fall."""

    def second(v: Tensor, square: Tensor) -> None:
        v.add_(square)

    return _adaptive(second, server_rate, beta_1, tau)


def fedadam(
    *, server_rate: Positive = 0.1, beta_1: BelowOne = 0.9, beta_2: BelowOne = 0.99, tau: Positive = 1e-3
) -> Strategy:
    """Scale by a decaying mean of squares."""

    def second(v: Tensor, square: Tensor) -> None:
        v.mul_(beta_2).add_(square, alpha=1 - beta_2)

    return _adaptive(second, server_rate, beta_1, tau)


def fedyogi(
    *, server_rate: Positive = 0.01, beta_1: BelowOne = 0.9, beta_2: BelowOne = 0.99, tau: Positive = 1e-3
) -> Strategy:
    """Like Adam, but v moves by the size of the square alone: it forgets slowly."""

    def second(v: Tensor, square: Tensor) -> None:
        v.addcmul_((v - square).sign_(), square, value=beta_2 - 1)

    return _adaptive(second, server_rate, beta_1, tau)


def _adaptive(second: Second, server_rate: float, beta_1: float, tau: float) -> Strategy:
    def init(parameters: Vectors) -> State:
        state = initial(parameters, *MOMENTS)
        for v in state.memory[MOMENTS[1]].values():
            v.fill_(tau**2)
        return state

    def step(state: State, updates: Iterable[Update]) -> State:
        for group, mean in owner_sums(updates, state.spare["deltas"]).means():
            m, v = (state.memory[name][group] for name in MOMENTS)
            m.mul_(beta_1).add_(mean, alpha=1 - beta_1)
            # The mean's memory is scratch from here on.
            second(v, mean.square_())
            state.parameters[group].addcdiv_(m, torch.sqrt(v, out=mean).add_(tau), value=server_rate)
        return state

    return Strategy(init, step)
