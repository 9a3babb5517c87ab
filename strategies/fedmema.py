"""FedMEMA: encoders are everybody's, decoders each site's own, anchors those of a server that has everything.

Dai, Wei, Liu, Sun, Wang, Zheng: Federated Modality-specific Encoders and Multimodal Anchors for
Personalized Brain Tumor Segmentation, AAAI 2024 (arXiv 2403.11803; code: github.com/QDaiing/FedMEMA).

The paper's server has cases of its own, with all modalities. Here these are a site's, which the recipe names
as `server`: a public cohort, or the coordinator's. It trains in a round beside all others.

    modality:m     averaged over its owners by their cases, the server's site among them
    anchors        the server's site alone moves them, all others read them  (`models.zoo.fedmema`)
    all else       each site goes on from its own; the common one is that of the server's site

The server keeps what is a site's own. The common model, which is exported and which newcomers start from, so
has the decoder that was trained on all modalities. A round without the server's site moves encoders alone.
"""

from collections.abc import Iterable

from protocol.groups import ANCHORS, Layout, modality_group
from protocol.update import Update, Vectors
from strategies.base import State, Strategy, initial
from strategies.owners import by_group
from strategies.robust import combine

_ENCODER = modality_group("")


def fedmema(*, server: str) -> Strategy:
    """Average encoders; take decoder and anchors from the site `server`, and leave each site its decoder."""

    def step(state: State, updates: Iterable[Update]) -> State:
        for group, sent in by_group(updates).items():
            if group.startswith(_ENCODER):
                deltas, cases = zip(*sent.values(), strict=True)
                state.parameters[group].add_(combine(deltas, cases))
                continue
            ends = {site: model_for(state, site)[group] + delta for site, (delta, _) in sent.items()}
            if group not in anchored(state.layout):
                for site, end in ends.items():
                    state.memory.setdefault(_own(site), {})[group] = end
            if server in ends:
                state.parameters[group].copy_(ends[server])
        return state

    return Strategy(initial, step, model_for=model_for, needs=(server,))


def model_for(state: State, site: str) -> Vectors:
    """Return what `site` starts from: the common encoders and anchors, and the rest as it left it."""
    return state.parameters | state.memory.get(_own(site), {})


def anchored(layout: Layout) -> set[str]:
    """Return the groups that hold anchors."""
    return {
        group
        for group, slots in layout.groups.items()
        if any(ANCHORS in slot.name.split(".") for slot in slots)
    }


def _own(site: str) -> str:
    return f"own:{site}"
