"""Every site for itself: the baseline that any federation must beat.

All parameters are private, nothing travels, and the server averages nothing.
"""

from strategies.base import Local, Strategy, initial
from strategies.fedavg import average


def local() -> Strategy:
    """One model per site."""
    return Strategy(initial, average, local=Local(private="all"))
