"""Modality-balanced weights: rare modalities have their say in what all sites share.

Inverse-frequency weights of long-tailed learning (Cui, Jia, Lin, Song, Belongie: Class-Balanced
Loss Based on Effective Number of Samples, CVPR 2019), over modalities in place of classes.

Where nine sites hold T1 and one holds FLAIR, FedAvg's shared group is T1's. Here a site's cases of
a group are apportioned to the modalities it holds, in proportion to how many cases have them,

    s[i, m, g] = n[i, g] * n[i, m] / sum of n[i, .]       N[m, g] = sum_i s[i, m, g]

each modality has its own mean, and the group moves by a mean of these:

    mean[m, g] = sum_i s[i, m, g] delta_i[g] / N[m, g]
    x[g] <- x[g] + sum_m N[m, g]^(1 - balance) mean[m, g] / sum_m N[m, g]^(1 - balance)

`balance` 0 is FedAvg, to the letter; 1 gives every modality the same say. A modality's own group
has one modality, so it is averaged over its owners as ever; a site whose groups name none counts as
a kind of its own. Memory: one sum for each modality, whatever the number of sites.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

from protocol.groups import modality_group
from protocol.typed import Rule
from protocol.update import Update
from strategies.base import State, Strategy, initial
from strategies.owners import OwnerSums

UpToOne = Annotated[float, Rule("in [0, 1]", lambda value: 0 <= value <= 1)]

_PREFIX = modality_group("")


def modality_balanced(*, balance: UpToOne = 1.0) -> Strategy:
    """FedAvg whose weights are corrected, by `balance`, for how often each modality is present."""

    def step(state: State, updates: Iterable[Update]) -> State:
        move(state, by_kind(state, updates), balance)
        return state

    return Strategy(initial, step)


def by_kind(state: State, updates: Iterable[Update]) -> dict[str, OwnerSums]:
    """Return modality's group -> the sums over its owners of what counts for it."""
    sums: dict[str, OwnerSums] = {}
    for update in updates:
        for kind, share in shares(update.counts).items():
            counts = _apportioned(update.counts, kind, share)
            kinds = sums.setdefault(kind, OwnerSums(state.spare[kind]))
            kinds.add({group: update.deltas[group] for group in counts}, counts)
    return sums


def move(state: State, sums: Mapping[str, OwnerSums], balance: float) -> None:
    """Add to each group the mean over modalities of their means."""
    for group, vector in state.parameters.items():
        of_group = [each for each in sums.values() if group in each.weights]
        total = sum(each.weights[group] ** (1 - balance) for each in of_group)
        for each in of_group:
            vector.add_(each.vectors[group], alpha=each.weights[group] ** -balance / total)


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return modality's group -> the share of a site's cases that counts for it; they add up to 1.

    A site of no modality is one of kind "".
    """
    held = {group: count for group, count in counts.items() if group.startswith(_PREFIX) and count}
    total = sum(held.values())
    return {group: count / total for group, count in held.items()} or {"": 1.0}


def _apportioned(counts: Mapping[str, int], kind: str, share: float) -> dict[str, float]:
    """Return a site's cases of each group that count for `kind`: all of its own group, none of another's."""
    common = {group: count * share for group, count in counts.items() if not group.startswith(_PREFIX)}
    return common | ({kind: counts[kind]} if kind else {})
