"""FedNova: sites that took more steps do not pull harder.

Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization, NeurIPS 2020. With K_i the local steps of site i and p_i its share of the
group's cases:

    x <- x + (sum_i p_i K_i) * sum_i p_i delta_i / K_i

This is the paper's normaliser for plain SGD at the sites. Equal steps everywhere: FedAvg.
"""

from collections.abc import Iterable

from protocol.update import Update
from strategies.base import State, Strategy, initial
from strategies.owners import OwnerSums


def fednova() -> Strategy:
    """Average directions per step, then go as many steps as the sites did on average."""
    return Strategy(initial, _step)


def _step(state: State, updates: Iterable[Update]) -> State:
    sums = OwnerSums(state.spare["deltas"])
    steps: dict[str, float] = {}  # group -> sum of n K over its owners
    for update in updates:
        sums.add(update.deltas, update.counts, 1 / update.steps)
        for group, count in update.counts.items():
            steps[group] = steps.get(group, 0.0) + count * update.steps
    for group, direction in sums.means():
        state.parameters[group].add_(direction, alpha=steps[group] / sums.weights[group])
    return state
