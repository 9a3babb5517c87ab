"""FedMSplit: each site gets its own mixture of every block, of the sites that it is most like.

Chen, Zhang: FedMSplit: Correlation-Adaptive Federated Multi-Task Learning across Multimodal Split
Networks, KDD 2022.

A model is split into blocks, here its groups. Each block is one view of how its owners relate,
by attention; what two sites are to each other counts in all views that they share:

    A_g[k, l] = softmax over l of cosine(y_k[g] - x[g], y_l[g] - x[g]) / temperature
    R_g[k, l] = A_g[k, l] * mean over the groups h that k and l sent of A_h[k, l]   rows scaled to sum 1
    x_k[g] <- sum_l R_g[k, l] y_l[g]               what site k starts the next round from
    x[g]   <- 1/K sum_k x_k[g]                     the model for everybody else, and the one kept

with y_k what site k ended the round at. The paper compares parameters by their inner product; here
they are seen from the common model x, and by direction, which does not grow with a block's size.
A site that was not in the round keeps its blocks. The server holds one model for each site.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from protocol.recipe import Positive
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial, sender
from strategies.robust import combine

Moves = Mapping[str, Vectors]
"""Site -> group -> where it ended the round, seen from the common model, `(size,)`."""


def fedmsplit(*, temperature: Positive = 0.5) -> Strategy:
    """Send every site its own mixture of the owners' blocks; a low `temperature` mixes the most alike."""

    def step(state: State, updates: Iterable[Update]) -> State:
        ends = {sender(update): _end(state, update) for update in updates}
        for group, (sites, weights) in mixtures(ends, temperature).items():
            rows = [ends[site][group] for site in sites]
            for site, row in zip(sites, weights.tolist(), strict=True):
                mixed = combine(rows, row).add_(state.parameters[group])
                state.memory.setdefault(_place(site), {})[group] = mixed
            state.parameters[group].add_(combine(rows, weights.mean(0).tolist()))
        return state

    return Strategy(initial, step, model_for=model_for)


def model_for(state: State, site: str) -> Vectors:
    """Return what `site` starts from: its own blocks, and the common one where it has none."""
    return state.parameters | state.memory.get(_place(site), {})


def mixtures(ends: Moves, temperature: float) -> dict[str, tuple[list[str], Tensor]]:
    """Return group -> (its owners, R over these `(K, K)`)."""
    groups = sorted({group for end in ends.values() for group in end})
    owners = {group: [site for site in sorted(ends) if group in ends[site]] for group in groups}
    views = {
        group: _attention([ends[site][group] for site in sites], temperature)
        for group, sites in owners.items()
    }
    return {group: (owners[group], _related(group, owners, views)) for group in groups}


def _attention(rows: list[Tensor], temperature: float) -> Tensor:
    """Return how much each of `rows` `(size,)` attends to each other, `(K, K)`, rows adding to 1."""
    directions = torch.nn.functional.normalize(torch.stack(rows), dim=1)
    return torch.softmax(directions @ directions.T / temperature, 1)


def _related(group: str, owners: Mapping[str, list[str]], views: Mapping[str, Tensor]) -> Tensor:
    """Weigh the view of `group` with the mean of all views, pair by pair."""
    places = {site: place for place, site in enumerate(owners[group])}
    total, seen = torch.zeros_like(views[group]), torch.zeros_like(views[group])
    for other, view in views.items():
        both = [site for site in owners[other] if site in places]
        here = torch.tensor([places[site] for site in both], dtype=torch.long)
        there = torch.tensor([owners[other].index(site) for site in both], dtype=torch.long)
        total[here[:, None], here] += view[there[:, None], there]
        seen[here[:, None], here] += 1
    related = views[group] * total / seen
    return related / related.sum(1, keepdim=True)


def _end(state: State, update: Update) -> Vectors:
    start = model_for(state, sender(update))
    return {
        group: start[group] - state.parameters[group] + delta
        for group, delta in update.deltas.items()
        if update.counts[group]
    }


def _place(site: str) -> str:
    return f"site:{site}"
