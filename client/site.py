"""A site ready to work: its cohort open, its model built, its part of the strategy.

Opening is expensive, so what a process has opened it keeps. Several sites in one process
(a simulation) share one model: each task loads all of it before use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from client import memory
from client.card import repeatable
from client.merging import Merged
from client.policy import EXACT, OPEN, Counts, Policy
from client.settings import Settings
from imaging.cohort import Cohort, concatenate, contributed, only, renamed
from imaging.sources import read_cohort
from models.catalogue import build_model, build_objectives
from models.flat import Flat
from models.objectives import Objective
from protocol.groups import PRIVATE
from protocol.messages import Task
from protocol.recipe import Recipe, build, parse_cached
from protocol.stages import stage_in
from strategies.base import Local
from strategies.catalogue import STRATEGIES

ARRAYS = "arrays"
"""Folder of memory-mapped cases; it may be removed, and is made anew."""


@dataclass(frozen=True)
class Site:
    """Everything that a task needs at a site; `recipe` is that of the run's stage."""

    settings: Settings
    recipe: Recipe
    cohort: Cohort
    flat: Flat
    objectives: Mapping[str, Objective]
    local: Local
    rows: Tensor
    """Training rows of the cohort, (N,)."""
    patients: int
    """Whose rows those are."""
    owned: Mapping[str, int]
    """Group -> training cases that use it, as this site tells them."""
    policy: Policy = OPEN
    """What the hospital allows at this task."""
    merged: Merged | None = None
    """Two models in one, where `equip` found two."""

    @property
    def model(self) -> nn.Module:
        """What predicts here, once it is equipped."""
        return self.flat.model if self.merged is None else self.merged

    def folder(self, run: str) -> Path:
        """Return the folder for what this site keeps of `run`."""
        return self.settings.state / run

    def memory(self, task: Task) -> Path:
        """Return the folder for what this site keeps from round to round: each stage begins anew."""
        return self.folder(task.run) / stage_in(task.recipe, task.round)[0].name

    def equip(self, task: Task) -> "Site":
        """Load what is evaluated: the task's parameters, and over them what the site keeps to itself."""
        kept = memory.recall(self.memory(task), task.round + 1)
        common = task.vectors | self.flat.initial | kept.get(PRIVATE, {})
        own = common | kept.get("personal", {})
        self.flat.load(own)
        if self.local.merge is None or "personal" not in kept:
            return self
        merged = Merged(self.flat, common, own, self.local.merge, self.recipe.heads)
        return replace(self, merged=merged)


@lru_cache(maxsize=4096)
def open_site(settings: Settings, recipe_text: str, counts: Counts = EXACT) -> Site:
    """Read the cohort and build the model; kept for the life of the process.

    `counts` decides which groups have enough contributors, and how coarsely they are counted.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    recipe = parse_cached(recipe_text)
    flat, objectives, local = _shared(recipe_text, settings.device)
    cohort = contributed(_cohort(settings, recipe), counts.least_contributors)
    owned = {group: counts.rounded(count) for group, count in cohort.counts("train").items()}
    rows = cohort.rows("train")
    return Site(settings, recipe, cohort, flat, objectives, local, rows, cohort.patients_in(rows), owned)


@lru_cache(maxsize=4)
def _shared(recipe_text: str, device: str) -> tuple[Flat, Mapping[str, Objective], Local]:
    repeatable(device)
    recipe = parse_cached(recipe_text)
    local = build(STRATEGIES, recipe.strategy, "strategy").local
    return Flat(build_model(recipe).to(device), local.private), build_objectives(recipe), local


def _cohort(settings: Settings, recipe: Recipe) -> Cohort:
    if not settings.partitions:
        # A folder's name is the hospital's own affair.
        return renamed(read_cohort(settings.data, recipe, None, settings.state / ARRAYS), settings.site)
    parts = [read_cohort(settings.data, recipe, part) for part in settings.partitions]
    # Pooled data train and nothing else: the sites they came from hold the held-out patients.
    return parts[0] if len(parts) == 1 else only(concatenate(settings.site, parts), "train")
