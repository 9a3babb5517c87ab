"""What a lying site may answer instead of its update.

Two kinds. `MALFORMED` cannot be an honest answer: the server refuses it before summing. `HOSTILE` is
well formed and wrong, so that nothing but a robust strategy helps (Blanchard et al., NeurIPS 2017).

    lying(train, {"south": poison})   the site's `train`, with south's replies poisoned
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from client.site import Site
from protocol.messages import Reply, Task
from protocol.update import Update

Poison = Callable[[Update], Update]
Answer = Callable[[Site, Task], Reply]

BOOST = 10.0
"""How many times its own length a hostile update has."""


def lying(answer: Answer, poisons: Mapping[str, Poison]) -> Answer:
    """Return `answer` with the updates of the sites named in `poisons` changed on their way out."""

    def answered(site: Site, task: Task) -> Reply:
        reply = answer(site, task)
        if reply.update is None or site.settings.site not in poisons:
            return reply
        return replace(reply, update=poisons[site.settings.site](reply.update))

    return answered


def sign_flip(update: Update) -> Update:
    """Push `BOOST` times as far the other way."""
    return update.scaled(-BOOST)


def _vectors(change: Callable[[Tensor], Tensor]) -> Poison:
    """Change the first group's vector."""

    def poison(update: Update) -> Update:
        group, vector = next(iter(update.deltas.items()))
        return replace(update, deltas={**update.deltas, group: change(vector)})

    return poison


def _counts(count: float) -> Poison:
    return lambda update: replace(update, counts=dict.fromkeys(update.counts, count))  # pyright: ignore[reportArgumentType] - not an int is the attack


def _with_value(value: float) -> Poison:
    return _vectors(lambda vector: torch.cat([torch.full_like(vector[:1], value), vector[1:]]))


def _less(update: Update) -> Update:
    group = next(iter(update.deltas))
    return replace(update, deltas={g: v for g, v in update.deltas.items() if g != group})


def _more(update: Update) -> Update:
    return replace(
        update, deltas={**update.deltas, "private": torch.ones(1)}, counts={**update.counts, "private": 1}
    )


MALFORMED: dict[str, Poison] = {
    "NaN": _with_value(math.nan),
    "infinity": _with_value(math.inf),
    "shape that broadcasts": _vectors(lambda vector: vector[:1]),
    "longer": _vectors(lambda vector: torch.cat([vector, vector[:1]])),
    "matrix": _vectors(lambda vector: vector[None]),
    "float64": _vectors(torch.Tensor.double),
    "integers": _vectors(torch.Tensor.long),
    "group left out": _less,
    "private group": _more,
    "absurd count": _counts(10**18),
    "negative count": _counts(-5),
    "infinite count": _counts(math.inf),
    "no steps": lambda update: replace(update, steps=0.0),
    "unasked extra": lambda update: replace(update, extras={"momentum": dict(update.deltas)}),
}
HOSTILE: dict[str, Poison] = {"sign flip": sign_flip}
