"""Federations for the tests: updates with missing owners, and streams that take their memory back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st

from protocol.groups import Layout, Slot
from protocol.update import Update, Vectors
from strategies.base import Received, State, Strategy
from strategies.catalogue import STRATEGIES

SIZES = {"head:tumour": 1, "modality:flair": 3, "modality:t1": 4, "shared": 6}

KERNEL = Layout({"shared": (Slot("kernel", (2, 2), 0), Slot("bias", (2,), 4))})
"""Two filters in `shared`: the numbers 0, 1, 4 and the numbers 2, 3, 5."""

PROTOTYPE = Layout({"shared": (Slot("kernel", (2, 2), 0), Slot("prototypes.taught_by_flair.w", (2,), 4))})
"""The last two numbers of `shared` are FLAIR's."""

ANCHORED = Layout({"head:tumour": (Slot("anchors.w", (1,), 0),)})

QUIET = {
    "dp_fedavg": {"unit": "site", "noise_multiplier": 0.0},
    "fedmema": {"server": "site 0"},
}
"""Options that a strategy needs to be a function of its updates."""


def made(name: str) -> Strategy:
    """Return the strategy with its defaults, and without noise."""
    return STRATEGIES[name](**QUIET.get(name, {}))


def laid_out(strategy: Strategy, layout: Layout = KERNEL) -> Strategy:
    """Return the strategy with what the server tells it of the model."""

    def init(parameters: Vectors) -> State:
        return replace(strategy.init(parameters), layout=layout)

    return replace(strategy, init=init)


@dataclass(frozen=True)
class Federation:
    """Parameters to start from, and each round's updates."""

    parameters: Vectors
    rounds: tuple[tuple[Update, ...], ...]


@st.composite
def federations(draw: st.DrawFn, rounds: int = 3, most_sites: int = 7) -> Federation:
    """Draw who owns what, counts and steps; the numbers themselves come from a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sites = draw(st.lists(st.sets(st.sampled_from(sorted(SIZES))), max_size=most_sites))
    counts = [dict.fromkeys(sorted(owned), draw(st.integers(1, 400))) for owned in sites]
    steps = [float(draw(st.integers(1, 30))) for _ in sites]
    played = [
        tuple(
            Received(**vars(update(rng, owned, taken)), site=f"site {number}")
            for number, (owned, taken) in enumerate(zip(counts, steps, strict=True))
        )
        for _ in range(rounds)
    ]
    return Federation(vectors(rng, SIZES), tuple(played))


def update(rng: np.random.Generator, counts: dict[str, int], steps: float = 1.0) -> Update:
    """Return an update of the groups in `counts`, with a control beside it."""
    return Update(vectors(rng, counts), counts, steps, {"control": vectors(rng, counts)})


def vectors(rng: np.random.Generator, groups: dict[str, int]) -> Vectors:
    """Return a random vector for each of `groups`."""
    return {g: torch.from_numpy(rng.normal(size=SIZES[g]).astype(np.float32)) for g in groups}


def stream(updates: Sequence[Update]) -> Iterator[Update]:
    """Yield copies one at a time and overwrite each with NaN as soon as the next is asked for."""
    for each in updates:
        extras = {n: copied(v) for n, v in each.extras.items()}
        lent = replace(each, deltas=copied(each.deltas), counts=dict(each.counts), extras=extras)
        yield lent
        for given in (lent.deltas, *lent.extras.values()):
            for vector in given.values():
                vector.fill_(torch.nan)


def failing(updates: Sequence[Update]) -> Iterator[Update]:
    """Yield all updates, then raise: what a missed quorum looks like to a strategy."""
    yield from stream(updates)
    raise RuntimeError("quorum")


def copied(vectors: Vectors) -> Vectors:
    """Return independent copies."""
    return {group: vector.clone() for group, vector in vectors.items()}
