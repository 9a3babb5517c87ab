"""The three attacks on one recipe, each with its control: what `consilium privacy audit` runs.

The recipe's network, objectives, privacy and local loop are the real ones; the patients are made up
(`sim.attacks.hospital`). A step's noise and the share of patients that it draws are those of a
hospital with `patients` training patients, by the site's own arithmetic (`client.spending`). A run in stages
is attacked stage by stage, each with the noise that is left to it and against its own epsilon.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from client.policy import OPEN
from client.spending import by_stage
from models.catalogue import build_objectives
from privacy.accounting import Event
from privacy.pace import pace
from protocol.recipe import Recipe
from protocol.stages import Stage, stages_of
from server.evidence import Attack
from sim.attacks import canaries, inversion, membership

MARGIN_DB = 1.0
MOST_FOUND = 0.05

Watch = Callable[[], object]
"""Called as work is done, `Effort.parts` times an attack."""


@dataclass(frozen=True)
class Effort:
    """How hard to try; the defaults are the bars'."""

    canaries: int = canaries.CANARIES
    models: int = 8
    inversion_starts: int = inversion.STARTS
    training_steps: int = 100


def stage_events(recipe: Recipe, patients: int) -> list[tuple[Stage, Event]]:
    """Return each stage of a run of `recipe`, and all its private steps at a hospital of `patients`.

    Without privacy there is no noise, and a batch's share of the patients is drawn all the same. Raises
    PrivacyError where an objective cannot be private, BudgetError where no noise affords the rounds.
    """
    for stage in stages_of(recipe):
        build_objectives(stage.recipe)
    if recipe.privacy.epsilon is None:
        return [(stage, _all_rounds(stage, _silent(stage.recipe, patients))) for stage in stages_of(recipe)]
    priced = by_stage(recipe, OPEN.privacy, patients)
    return [(stage, _all_rounds(stage, event)) for stage, _, event, _ in priced]


def _silent(recipe: Recipe, patients: int) -> Event:
    rate, steps = pace(recipe, patients)
    return Event(0.0, rate, steps)


def _all_rounds(stage: Stage, event: Event) -> Event:
    return replace(event, steps=event.steps * stage.recipe.rounds)


def parts(recipe: Recipe, event: Event, effort: Effort) -> Mapping[str, int]:
    """Return attack -> how often its `watch` is called."""
    twice = 2 if recipe.privacy.epsilon else 1
    once = {"epsilon": event.steps, "membership": effort.models, "inversion": effort.inversion_starts}
    return {name: twice * number for name, number in once.items()}


def attacks(
    recipe: Recipe, event: Event, effort: Effort, seed: int, watch: Mapping[str, Watch]
) -> Iterator[Attack]:
    """Make the attacks on one stage one after the other; `watch` by name is called as they go on."""
    yield measured_epsilon(recipe, event, effort, seed, watch["epsilon"])
    yield membership_found(recipe, effort, seed, watch["membership"])
    yield scan_rebuilt(recipe, event, effort, seed, watch["inversion"])


def measured_epsilon(recipe: Recipe, event: Event, effort: Effort, seed: int, watch: Watch) -> Attack:
    """Audit by canaries, without noise and with the recipe's."""
    silent = canaries.measure(recipe, replace(event, noise_multiplier=0.0), seed, effort.canaries, watch)
    setting = {"canaries": effort.canaries, "steps": event.steps, "sampling_rate": event.sampling_rate}
    if not recipe.privacy.epsilon:
        return Attack("epsilon", silent.bound, None, None, setting)
    found = canaries.measure(recipe, event, seed + 1, effort.canaries, watch)
    setting |= {"guesses": found.guesses, "right": found.right, "delta": canaries.DELTA}
    setting |= {"noise_multiplier": event.noise_multiplier}
    return Attack("epsilon", silent.bound, found.bound, found.claim, setting)


def membership_found(recipe: Recipe, effort: Effort, seed: int, watch: Watch) -> Attack:
    """LiRA, without privacy and with the recipe's."""
    training = replace(membership.BY_HEART, steps=effort.training_steps)
    attack = partial(membership.measure, models=effort.models, training=training, watch=watch)
    control = attack(undefended(recipe), seed)
    setting = {"models": effort.models, "members": control.members, "steps": effort.training_steps}
    if not recipe.privacy.epsilon:
        return Attack("membership", control.found, None, None, setting)
    defended = attack(recipe, seed)
    return Attack("membership", control.found, defended.found, MOST_FOUND, setting)


def scan_rebuilt(recipe: Recipe, event: Event, effort: Effort, seed: int, watch: Watch) -> Attack:
    """Gradient inversion, without privacy and with the recipe's clipping and noise."""
    attack = partial(inversion.measure, starts=effort.inversion_starts, watch=watch)
    control = attack(recipe, None, seed)
    setting = {"starts": effort.inversion_starts, "mean_scan_db": control.mean_psnr}
    if not recipe.privacy.epsilon:
        return Attack("inversion", control.psnr, None, None, setting)
    defended = inversion.measure(
        recipe, event.noise_multiplier, seed, starts=effort.inversion_starts, watch=watch
    )
    return Attack("inversion", control.psnr, defended.psnr, control.mean_psnr + MARGIN_DB, setting)


def undefended(recipe: Recipe) -> Recipe:
    """Return the recipe without privacy."""
    return replace(recipe, privacy=replace(recipe.privacy, epsilon=None))
