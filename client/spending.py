"""What a private round costs, decided at the site before it trains.

The site knows its number of patients, so the site turns the recipe's budget into noise:
sampling rate, steps and (unless the recipe fixes it) the least noise multiplier that affords
every round, never less than the policy's. The ledger reserves the round first; what would
exceed the recipe's budget, or the policy's for a run or for the cohort, is refused.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from client.policy import Floor
from client.site import Site
from privacy.accounting import Event, calibrate, epsilon, epsilon_pld
from privacy.ledger import Ledger
from protocol.errors import BudgetError
from protocol.messages import Task
from protocol.recipe import Recipe


@dataclass(frozen=True)
class Spending:
    """One round's private steps: the event, its delta, and the patients' rows."""

    event: Event
    delta: float
    expected_batch: float
    cases_of: list[Tensor]


def reserve(site: Site, task: Task) -> Spending | None:
    """Reserve this round in the ledger; None without privacy, `BudgetError` when unaffordable."""
    if site.recipe.privacy.epsilon is None:
        return None
    spending = planned(site)
    ledger = _ledger(site)
    for cap in caps(site.recipe, site.policy.privacy, spending.delta):
        before = ledger.events(None if cap.all_runs else task.run)
        _afford(cap, before, spending.event, task.round)
    # A round that is asked again draws fresh noise and is a second release: both reservations count.
    ledger.reserve(task.run, task.round, spending.event)
    return spending


def commit(site: Site, task: Task, spending: Spending) -> None:
    """Write down that the reserved steps were taken."""
    _ledger(site).commit(task.run, task.round, spending.event.steps)


def spent(site: Site, spending: Spending) -> dict[str, Any]:
    """Return what the run has cost this site's patients so far, by both accountants."""
    events = tuple(_ledger(site).events())
    return {
        "epsilon": epsilon(events, spending.delta),
        "epsilon_pld": epsilon_pld(events, spending.delta),
        "delta": spending.delta,
        "noise_multiplier": spending.event.noise_multiplier,
    }


def planned(site: Site) -> Spending:
    """Return one round's spending under the recipe at this site."""
    owners = site.cohort.patient[site.rows]
    cases_of = [site.rows[owners == patient] for patient in owners.unique()]
    event, delta = priced(site.recipe, site.policy.privacy, len(cases_of))
    return Spending(event, delta, event.sampling_rate * len(cases_of), cases_of)


def priced(recipe: Recipe, floor: Floor, patients: int, spent: tuple[Event, ...] = ()) -> tuple[Event, float]:
    """Return one round's event at a site of so many patients, and the delta it is accounted at.

    `spent`: what these patients have paid before, if the budget is for all of it together.
    Raises `BudgetError` where no noise affords the recipe's rounds.
    """
    asked = recipe.privacy
    rate = asked.sampling_rate or min(1.0, recipe.training.batch / patients)
    steps = recipe.training.steps or recipe.training.epochs * math.ceil(1 / rate)
    delta, budget = floor.delta(recipe, patients), floor.budget(asked.epsilon or math.inf)
    noise = asked.noise_multiplier or _least_noise(budget, delta, rate, steps * recipe.rounds, spent)
    return Event(max(noise, floor.least_noise_multiplier), rate, steps), delta


@dataclass(frozen=True)
class Cap:
    """The most that this run, or all runs of the cohort, may cost a patient; `key` names who set it."""

    key: str
    epsilon: float
    delta: float
    all_runs: bool = False


def caps(recipe: Recipe, floor: Floor, delta: float) -> list[Cap]:
    """Return every limit that a round must keep: the recipe's, and the policy's of run and cohort."""
    run = {"epsilon": recipe.privacy.epsilon, "largest_epsilon_run": floor.largest_epsilon_run}
    found = [Cap(f"privacy.{key}", limit, delta) for key, limit in run.items() if limit is not None]
    if floor.largest_epsilon_cohort is not None:
        cohort = Cap("privacy.largest_epsilon_cohort", floor.largest_epsilon_cohort, delta, all_runs=True)
        found.append(cohort)
    return found


def _afford(cap: Cap, before: list[Event], event: Event, number: int) -> None:
    if epsilon((*before, event), cap.delta) > cap.epsilon:
        raise BudgetError(
            f"round {number} would exceed epsilon {cap.epsilon:g} at delta {cap.delta:.3g} "
            f"(spent {epsilon(before, cap.delta):.3f}), which is {cap.key}: raise it where it was set, "
            "or let the run go on without this site"
        )


@lru_cache(maxsize=256)
def _least_noise(
    budget: float, delta: float, rate: float, steps: int, spent: tuple[Event, ...] = ()
) -> float:
    return calibrate(budget, delta, rate, steps, spent)


def history(state: Path) -> tuple[Event, ...]:
    """Return everything that the ledger in a site's state folder counts; nothing where there is none."""
    return tuple(Ledger(state / "ledger.jsonl").events())


def _ledger(site: Site) -> Ledger:
    return Ledger(site.settings.state / "ledger.jsonl")
