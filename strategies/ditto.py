"""Ditto: a global model, and one of each site's own beside it.

Li, Hu, Beirami, Smith: Ditto: Fair and Robust Federated Learning Through Personalization,
ICML 2021.

    at the server  FedAvg
    at the site    also minimise  F_i(v) + lambda/2 |v - x|^2  over a personal v that stays there

`personal` is the paper's lambda: 0 is training alone, large values are the global model.
"""

from protocol.recipe import NotNegative
from strategies.base import Local, Strategy, initial
from strategies.fedavg import average


def ditto(*, personal: NotNegative = 0.1) -> Strategy:
    """FedAvg, and a personal model pulled to it by `personal`."""
    return Strategy(initial, average, local=Local(personal=personal))
