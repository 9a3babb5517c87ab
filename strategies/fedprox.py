"""FedProx.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks,
MLSys 2020.

    at the site    minimise  F_i(y) + mu/2 |y - x|^2,  so each step's gradient gains mu (y - x)
    at the server  FedAvg

`mu = 0` is FedAvg.
"""

from torch import Tensor

from protocol.recipe import NotNegative
from strategies.base import Local, Memory, Strategy, initial
from strategies.fedavg import average


def fedprox(*, mu: NotNegative = 0.01) -> Strategy:
    """FedAvg whose sites are pulled back to where they started, by `mu`."""

    def correct(  # noqa: PLR0917 - the hook's signature
        group: str, grad: Tensor, here: Tensor, start: Tensor, received: Memory, memory: Memory
    ) -> None:
        del group, received, memory
        grad.add_(here - start, alpha=mu)

    return Strategy(initial, average, local=Local(correct=correct))
