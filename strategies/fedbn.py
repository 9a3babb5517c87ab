"""FedBN: normalisation stays at home.

Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization, ICLR 2021.

Scanners differ in intensity and contrast: every site keeps its own normalisation parameters,
which never travel; the rest is FedAvg.
"""

from strategies.base import Local, Strategy, initial
from strategies.fedavg import average


def fedbn() -> Strategy:
    """FedAvg without the normalisation layers."""
    return Strategy(initial, average, local=Local(private="norm"))
