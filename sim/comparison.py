"""Which method does better: recipes on data sets over seeds, each beside what it must beat.

    with_controls   a recipe and its controls: label -> recipe
    contenders      all that is trained for several recipes: label -> recipe
    cell            one of them, on one data set, with one seed: a whole simulated run, and its robustness
    finished        makes a cell, or finds it as it was made before

    early fusion             the modalities as channels of one U-Net, zeros where one is absent
    one model per site       nothing travels
    pooled, a site's steps   all sites' training cases in one place, and as many optimiser steps as the
                             largest site takes in the federation
    pooled, all steps        the same data, and as many steps as all sites take together

The two pooled ones tell apart what more data give and what more steps give; a federation has the data of all
and the steps of one.

A cell lives in OUT/DATASET/HASH, by the hash of its recipe, seed included; equal controls of two recipes are
one cell. What was killed goes on from its last checkpoint, and what is finished is not made again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from client.sampling import steps_a_round
from imaging.sources import list_sites, read_cohort
from models.encoders import images_of
from protocol.errors import CheckpointError, SettingsError
from protocol.recipe import Part, Recipe, Training, recipe_hash
from server import robustness
from server.book import Watch
from server.record import read_record
from server.robustness import Replicates, Robustness, read_replicates
from sim.assessment import Effort, Question, assess, question
from sim.opened import sites_of_run
from sim.run import POOLED, Launch, conduct, new_run, read_launch

EARLY_FUSION = "early fusion"


@dataclass(frozen=True)
class Cell:
    """One run: of `recipe`, seed included, under the name `label`, on the data set `dataset` in `data`."""

    label: str
    dataset: str
    data: Path
    recipe: Recipe

    def place(self, out: Path) -> Path:
        """Return the folder that its run goes into."""
        return out / self.dataset / recipe_hash(self.recipe)[:16]


@dataclass(frozen=True)
class Plan:
    """Where cells are kept, and how exactly they are looked at."""

    out: Path
    effort: Effort


Controls = Literal["each", "first", "early"]
"""Whose are trained: each recipe's, the first recipe's, or early fusion and no other."""
Found = tuple[Robustness, Replicates]
"""What came of a cell."""


def with_controls(recipe: Recipe, data: Path) -> dict[str, Recipe]:
    """Return label -> recipe: early fusion (where there are images), the recipe, and its other controls."""
    pooled = replace(recipe, roster=replace(recipe.roster, train=(POOLED,), quorum=1, fraction=1.0))
    if "server" in recipe.strategy.options:  # of a site's own, which is now in the pool
        options = {**recipe.strategy.options, "server": POOLED}
        pooled = replace(pooled, strategy=Part(recipe.strategy.name, options))
    cases = [len(read_cohort(data, recipe, site).rows("train")) for site in list_sites(data, recipe)]
    alone = tuple(replace(stage, strategy=None) for stage in recipe.stages)
    return {
        **({EARLY_FUSION: early_fusion(recipe)} if images_of(recipe.modalities) else {}),
        recipe.name: recipe,
        f"{recipe.name}: one model per site": replace(recipe, strategy=Part("local"), stages=alone),
        f"{recipe.name}: pooled, a site's steps": stepped(pooled, cases, max),
        f"{recipe.name}: pooled, all steps": stepped(pooled, cases, sum),
    }


def contenders(recipes: Sequence[Recipe], data: Path, controls: Controls) -> dict[str, Recipe]:
    """Return label -> recipe: early fusion, then each recipe, with the controls that it is to have.

    Early fusion is trained once, as the first recipe says.
    """
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        own = with_controls(recipe, data)
        wanted = own if controls == "each" or (controls == "first" and not found) else (recipe.name,)
        kept = [label for label in own if label in wanted or label == EARLY_FUSION]
        found |= {label: own[label] for label in kept if label not in found}
    return found


def early_fusion(recipe: Recipe) -> Recipe:
    """Return the recipe with one U-Net over all modalities, as large as its own model says it is.

    It reads what the data are, slices or volumes. It has no stages, and as many rounds as all of them; and
    no pretexts.
    """
    options = {
        name: recipe.model.options[name] for name in ("channels", "groups") if name in recipe.model.options
    }
    if _are_volumes(recipe):
        options["dims"] = 3
    return replace(
        recipe,
        name="early_fusion",
        heads={name: head for name, head in recipe.heads.items() if head.kind != "pretext"},
        model=Part("early_fusion_unet", options),
        strategy=Part("fedavg"),
        stages=(),
        rounds=recipe.all_rounds,
    )


def _are_volumes(recipe: Recipe) -> bool:
    match recipe.data.options:
        case {"size": (_, _, _)} | {"depth": int()}:
            return True
        case _:
            return False


def stepped(recipe: Recipe, cases: Sequence[int], count: Callable[[list[int]], int]) -> Recipe:
    """Return the recipe with as many steps a round, in every stage, as `count` makes of the sites' steps.

    `cases`: training cases of each site.
    """

    def steps(training: Training) -> Training:
        return replace(training, steps=count([steps_a_round(training, each) for each in cases]))

    stages = tuple(replace(each, training=steps(each.training or recipe.training)) for each in recipe.stages)
    return replace(recipe, training=steps(recipe.training), stages=stages)


def finished(cell: Cell, plan: Plan, reference: Path | None, watch: Watch) -> Path:
    """Make the cell, or go on with it, and return its run's folder."""
    place = cell.place(plan.out)
    folder = _begun(cell, place) or new_run(cell.recipe, Launch(cell.data, tracking="off", threads=1), place)
    if not _is_finished(folder):
        conduct(folder, cell.recipe, watch)
    asked = question(cell.recipe, "", plan.effort, reference)
    if not _is_answered(folder, asked):
        sites = sites_of_run(folder, cell.recipe, read_launch(folder))
        robustness.write(folder, *assess(asked, sites, folder.name, "final", lambda: None))
    return folder


def results(folder: Path) -> Found:
    """Return what was found of a finished cell's run; `CheckpointError` where nothing was."""
    found = robustness.read(folder)
    if found is None:
        raise CheckpointError(f"{folder} was not evaluated: run `consilium bench methods` again, it goes on")
    return found, read_replicates(folder)


def _begun(cell: Cell, place: Path) -> Path | None:
    folders = sorted(path.parent for path in place.glob("*/launch.json"))
    if not folders:
        return None
    if (before := read_launch(folders[0]).data) != cell.data.resolve():
        raise SettingsError(f"{place} was made with the data in {before}: choose another --out")
    return folders[0]


def _is_finished(folder: Path) -> bool:
    return (folder / "record.json").exists() and read_record(folder).status == "finished"


def _is_answered(folder: Path, asked: Question) -> bool:
    found, effort = robustness.read(folder), asked.effort
    if found is None or not {each.family for each in asked.shown} <= {row.family for row in found.rows}:
        return False
    reference = asked.reference.name if asked.reference else ""
    return (found.seed, found.replicates, found.reference) == (effort.seed, effort.replicates, reference)


def cells(methods: Mapping[str, Recipe], dataset: str, data: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield a cell a method and seed, seed by seed, so that a stopped comparison has whole seeds."""
    for seed in seeds:
        for label, recipe in methods.items():
            yield Cell(label, dataset, data, replace(recipe, seed=seed))


def compared(
    methods: Mapping[str, Recipe],
    dataset: tuple[str, Path],
    seeds: Sequence[int],
    plan: Plan,
    watch: Callable[[Cell], Watch],
) -> dict[str, list[Found]]:
    """Make every cell of one data set and return label -> what was found with each seed.

    Errors under corruption are relative to early fusion with the same seed, where it is among the methods.
    """
    found: dict[str, list[Found]] = {label: [] for label in methods}
    reference: Path | None = None
    for cell in cells(methods, *dataset, seeds):
        versus = None if cell.label == EARLY_FUSION else reference
        folder = finished(cell, plan, versus, watch(cell))
        reference = folder if cell.label == EARLY_FUSION else reference
        found[cell.label].append(results(folder))
    return found
