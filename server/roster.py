"""Whom to ask in a round.

The choice follows from (recipe seed, round), so a resumed run asks the same sites. A site that is
out, its budget spent or set aside for its failures, is not asked to train; it is still asked to evaluate.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from protocol.errors import QuorumError
from protocol.recipe import Recipe
from server.record import SiteSummary


@dataclass(frozen=True)
class Member:
    """A site of the federation as the coordinator knows it.

    `owned`   group -> training cases, as declared at the start of the run
    `usable`  groups that any of its cases (also held-out ones) can use
    """

    site: str
    owned: Mapping[str, int]
    usable: frozenset[str]
    summary: SiteSummary


def choose(recipe: Recipe, members: Collection[Member], out: Collection[str], number: int) -> list[Member]:
    """Return the members to train in round `number`, in name order."""
    able = able_to_train(recipe, members, out)
    wanted = max(recipe.roster.quorum, math.ceil(recipe.roster.fraction * len(able)))
    if len(able) < recipe.roster.quorum:
        msg = (
            f"round {number}: {len(able)} sites can train, quorum is {recipe.roster.quorum} "
            f"(out, by spent budget or failures: {sorted(out) or 'none'}): lower roster.quorum, raise "
            "privacy.epsilon, or see why they failed"
        )
        raise QuorumError(msg)
    drawn = sorted(able, key=lambda m: hashlib.sha256(f"{recipe.seed}/{number}/{m.site}".encode()).digest())
    return sorted(drawn[:wanted], key=lambda m: m.site)


def able_to_train(recipe: Recipe, members: Collection[Member], out: Collection[str]) -> list[Member]:
    """Return the members that a round may ask: the recipe wants them to train, and nothing keeps them out."""
    return [m for m in members if m.owned and m.site not in out and _trains(recipe, m.site)]


def _trains(recipe: Recipe, site: str) -> bool:
    return not recipe.roster.train or site in recipe.roster.train
