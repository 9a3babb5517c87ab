"""FedAMM: modalities weigh alike, and what stands for a modality is its owners' alone.

FedAMM, segmentation of brain tumours under arbitrary missing modalities: paper 1764 of MICCAI 2025
(code: github.com/13sky/FedAMM).

All groups move as under `modality_balanced`. In a group that all sites send there may be parameters that
only owners of a modality m can teach, such as m's prototypes (`models.zoo.fedamm`,
`protocol.groups.taught_by`). A site without m sends them too, as zeros or, under privacy, as noise; of these
the mean over m's owners alone counts:

    x[p_m] <- x[p_m] + sum_i s[i, m, g] delta_i[p_m] / sum_i s[i, m, g]

with s the cases of group g that count for m at site i. Where no owner of m has answered p_m stays.
"""

from collections.abc import Iterable, Iterator

from protocol.groups import Layout, modality_group, taught_by
from protocol.update import Update
from strategies.base import State, Strategy, initial
from strategies.modality_balanced import UpToOne, by_kind, move

_PREFIX = taught_by("")


def fedamm(*, balance: UpToOne = 1.0) -> Strategy:
    """Move as `modality_balanced` with `balance` does, and what owners of a modality teach by their mean."""

    def step(state: State, updates: Iterable[Update]) -> State:
        sums = by_kind(state, updates)
        before = {group: vector.clone() for group, vector in state.parameters.items()}
        move(state, sums, balance)
        for modality, group, part in taught(state.layout):
            state.parameters[group][part] = before[group][part]
            owners = sums.get(modality_group(modality))
            if owners is not None and group in owners.weights:
                mean = owners.vectors[group][part] / owners.weights[group]
                state.parameters[group][part] += mean
        return state

    return Strategy(initial, step)


def taught(layout: Layout) -> Iterator[tuple[str, str, slice]]:
    """Yield modality, group and place of whatever only the modality's owners teach in a group of others."""
    for group, slots in layout.groups.items():
        for slot in slots:
            for name in slot.name.split("."):
                if name.startswith(_PREFIX):
                    yield name.removeprefix(_PREFIX), group, slice(slot.offset, slot.offset + slot.size)
