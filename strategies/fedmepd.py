"""FedMEPD: encoders are everybody's; of the decoder each site keeps the filters that go their own way.

Liu, Wei, Dai, Wu, Zheng, Wang: Federated Modality-specific Encoders and Partially Personalized Fusion
Decoder for Multimodal Brain Tumor Segmentation, CVPR 2026 (arXiv 2603.04887; code:
github.com/ccarliu/FedMEPD).

A filter f is one output of a layer: its kernel, and its numbers of bias and norm (`filters`). Groups of a
modality are encoders, which all their owners share. Of every other group site k shares each filter at first:

    x[f] <- x[f] + sum_k n_k d_k[f] / sum_k n_k       over the sites k that share f
    agreement_k[f] = <d_k[f], what x[f] has moved>    over the numbers of f
    < 0   k has one round of patience less with f     without any left, f is k's own from now on
    > 0   its patience is whole again

with d_k what site k sent, n_k its cases. Site k is sent x with its own filters in it, as it left them; the
server keeps them. A filter that nobody shares any more stays what it was in x. The server holds up to three
models for each site: what it sent, where it ended, and its patience.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from protocol.groups import Slot, modality_group
from protocol.recipe import Count
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial
from strategies.owners import Sent, by_group

_ENCODER = modality_group("")


def fedmepd(*, patience: Count = 3) -> Strategy:
    """FedAvg, less the filters that a site has pulled against all others in `patience` rounds running."""

    def step(state: State, updates: Iterable[Update]) -> State:
        for group, sent in by_group(updates).items():
            common = state.parameters[group]
            whole = torch.full_like(common, patience)
            left = {site: state.memory.get(_patience(site), {}).get(group, whole) for site in sent}
            ends = {site: model_for(state, site)[group] + delta for site, (delta, _) in sent.items()}
            moved = mean_of_sharers(sent, left)
            common.add_(moved)
            if group.startswith(_ENCODER):
                continue
            numbers = filters(state.layout.groups.get(group, ()), len(common))
            for site, (delta, _) in sent.items():
                after = judged(left[site], agreement(delta, moved, numbers), whole)
                state.memory.setdefault(_own(site), {})[group] = ends[site]
                state.memory.setdefault(_patience(site), {})[group] = after
        return state

    return Strategy(initial, step, model_for=model_for)


def model_for(state: State, site: str) -> Vectors:
    """Return what `site` starts from: the common model, and in it the filters that are its own."""
    left = state.memory.get(_patience(site), {})
    own = {
        group: torch.where(left[group] > 0, state.parameters[group], vector)
        for group, vector in state.memory.get(_own(site), {}).items()
    }
    return state.parameters | own


def filters(slots: Sequence[Slot], size: int) -> Tensor:
    """Return the number of the filter that each number of a group belongs to, int64 `(size,)`.

    A vector belongs to the layer before it if it has one number for each of that layer's filters, and else
    is a filter of its own. A group of which nothing is known is one filter.
    """
    numbers, first, outputs = torch.zeros(size, dtype=torch.int64), 0, 0
    for slot in slots:
        if len(slot.shape) > 1 or slot.size != outputs:
            first, outputs = first + outputs, slot.shape[0] if len(slot.shape) > 1 else 1
        each = torch.arange(outputs).repeat_interleave(slot.size // outputs)
        numbers[slot.offset : slot.offset + slot.size] = first + each
    return numbers


def mean_of_sharers(sent: Sent, left: Mapping[str, Tensor]) -> Tensor:
    """Return the count-weighted mean over the sites that have patience `left`, number by number; else 0."""
    cases = torch.stack([count * (left[site] > 0) for site, (_, count) in sent.items()])
    deltas = torch.stack([delta for delta, _ in sent.values()])
    return (cases * deltas).sum(0) / cases.sum(0).clamp(min=1)


def agreement(delta: Tensor, moved: Tensor, numbers: Tensor) -> Tensor:
    """Return for each number the inner product of `delta` and `moved` over its filter, all `(size,)`."""
    products = torch.zeros(int(numbers.max()) + 1).index_add_(0, numbers, delta * moved)
    return products[numbers]


def judged(left: Tensor, agreed: Tensor, whole: Tensor) -> Tensor:
    """Return the patience that is left after a round; where there was none, there is none."""
    after = torch.where(agreed < 0, left - 1, torch.where(agreed > 0, whole, left))
    return torch.where(left > 0, after, left)


def _own(site: str) -> str:
    return f"own:{site}"


def _patience(site: str) -> str:
    return f"patience:{site}"
