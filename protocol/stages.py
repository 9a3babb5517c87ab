"""A run in stages: first one thing is learned, then, from there, another.

A recipe with `stages` describes its last stage, and what each stage before it does otherwise:

    rounds: 10                 #  rounds 21-30: outline tumours, from a network that knows scans
    heads: {tumour: ...}
    stages:
      - name: pretrain         #  rounds 1-20: the same network rebuilds what it is not shown
        rounds: 20
        heads: {scan: {kind: pretext, objective: own}}

Whoever reads the recipe for what the model *is* (its heads, how to load it) reads its top; whoever
takes a run through its rounds goes stage by stage, each a recipe without stages.

    stages_of(recipe)          the stages in order, one for an ordinary recipe
    stage_at(recipe, number)   the one that round `number` belongs to

Rounds are counted through the whole run. A parameter that two stages have in common, by group,
name and shape, goes on with its value; everything else begins anew: a strategy's memory, what a
site keeps for itself (`docs/decisions/014-stages.md`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from protocol.recipe import Recipe, dump_recipe, parse_cached


@dataclass(frozen=True)
class Stage:
    """Rounds `first` to `last` of a run, under `recipe`, which has no stages; "" names the last stage."""

    name: str
    first: int
    last: int
    recipe: Recipe


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a run in order; an ordinary recipe is its only one."""
    return tuple(_stages(recipe))


def stage_at(recipe: Recipe, number: int) -> Stage:
    """Return the stage of round `number`; before the first round that is the first one."""
    stages = stages_of(recipe)
    return next((stage for stage in stages if number <= stage.last), stages[-1])


@lru_cache(maxsize=256)
def stage_in(text: str, number: int) -> tuple[Stage, str]:
    """Return the stage of round `number` of the recipe in canonical `text`, and its own canonical text."""
    recipe = parse_cached(text)
    stage = stage_at(recipe, number)
    return stage, dump_recipe(stage.recipe) if recipe.stages else text


def _stages(recipe: Recipe) -> Iterator[Stage]:
    done = 0
    for each in recipe.stages:
        yield Stage(each.name, done + 1, done + each.rounds, each.under(recipe))
        done += each.rounds
    yield Stage("", done + 1, done + recipe.rounds, replace(recipe, stages=()))
