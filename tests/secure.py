"""The federation in memory with keys, for rounds of secure aggregation.

north, east, centre   flair and t1
south                 flair only
west                  t1 only, one also flair
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.app import ANSWERS
from client.settings import Settings
from client.site import Site
from protocol.messages import Reply, Task
from protocol.recipe import Recipe, Secure, Training
from sim.run import introduce
from tests.federation import Federation, cohort, recipe

PATIENTS = {"centre": 7, "east": 8, "north": 12, "south": 9, "west": 6}


class SecureFederation(Federation):
    """Five sites that know each other's keys."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, sites: tuple[str, ...] = tuple(PATIENTS)
    ) -> None:
        super().__init__(folder, {site: cohort(site, PATIENTS[site]) for site in sites}, patch)

    def settings(self, run: str, site: str) -> Settings:
        """One site's settings, with the pins of all."""
        pins = introduce(self.folder / run, self.sites)
        return replace(super().settings(run, site), federation=pins)


def secure_recipe(*, threshold: float = 0.5, **changes: Any) -> Recipe:
    """The tiny recipe, secured, one plain round of it unless `changes` say otherwise."""
    plain = {"rounds": 1, "training": Training(batch=8, rate=0.05)}
    return recipe(**plain | {"secure": Secure(enabled=True, threshold=threshold)} | changes)


def dying(patch: pytest.MonkeyPatch, step: str, *sites: str, after: bool = False) -> None:
    """Let `sites` die in `step`, before they answer or (their work done) while they do."""
    honest: Callable[[Site, Task], Reply] = ANSWERS[step]

    def answer(site: Site, task: Task) -> Reply:
        if site.settings.site not in sites:
            return honest(site, task)
        if after:
            honest(site, task)
        raise MemoryError("killed")

    patch.setitem(ANSWERS, step, answer)
