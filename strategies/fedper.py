"""FedPer: heads stay at home.

Arivazhagan, Aggarwal, Singh, Choudhary: Federated Learning with Personalization Layers, 2019
(arXiv 1912.00818).

All sites learn one representation by FedAvg; each keeps its own last layers, which never travel.
"""

from strategies.base import Local, Strategy, initial
from strategies.fedavg import average


def fedper() -> Strategy:
    """FedAvg without the heads."""
    return Strategy(initial, average, local=Local(private="head"))
