"""What a private round costs, decided at the site before it trains.

The site knows its number of patients, so the site turns the recipe's budget into noise:
sampling rate, steps and (unless the recipe fixes it) the least noise multiplier that affords
every round. The ledger reserves the round first; what would exceed the budget is refused.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from client.site import Site
from privacy.accounting import Event, calibrate, epsilon, epsilon_pld
from privacy.ledger import Ledger
from protocol.errors import BudgetError
from protocol.messages import Task


@dataclass(frozen=True)
class Spending:
    """One round's private steps: the event, its delta, and the patients' rows."""

    event: Event
    delta: float
    expected_batch: float
    cases_of: list[Tensor]


def reserve(site: Site, task: Task) -> Spending | None:
    """Reserve this round in the ledger; None without privacy, `BudgetError` when unaffordable."""
    budget = site.recipe.privacy.epsilon
    if budget is None:
        return None
    spending = planned(site)
    ledger = _ledger(site)
    if ledger.would_exceed(budget, spending.delta, spending.event):
        spent_so_far = epsilon(tuple(ledger.events()), spending.delta)
        msg = (
            f"round {task.round} would exceed epsilon {budget:g} at delta {spending.delta:.3g} "
            f"(spent {spent_so_far:.3f}): raise privacy.epsilon, or let the run go on without this site"
        )
        raise BudgetError(msg)
    ledger.reserve(_entry(task), task.round, spending.event)
    return spending


def commit(site: Site, task: Task, spending: Spending) -> None:
    """Write down that the reserved steps were taken."""
    _ledger(site).commit(_entry(task), task.round, spending.event.steps)


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
    recipe, privacy = site.recipe, site.recipe.privacy
    owners = site.cohort.patient[site.rows]
    cases_of = [site.rows[owners == patient] for patient in owners.unique()]
    patients = len(cases_of)
    rate = privacy.sampling_rate or min(1.0, recipe.training.batch / patients)
    steps = recipe.training.steps or recipe.training.epochs * math.ceil(1 / rate)
    delta = privacy.delta or 1 / (10 * patients)
    noise = privacy.noise_multiplier or _least_noise(privacy.epsilon or 0, delta, rate, steps * recipe.rounds)
    return Spending(Event(noise, rate, steps), delta, rate * patients, cases_of)


@lru_cache(maxsize=256)
def _least_noise(budget: float, delta: float, rate: float, steps: int) -> float:
    return calibrate(budget, delta, rate, steps)


def _ledger(site: Site) -> Ledger:
    return Ledger(site.settings.state / "ledger.jsonl")


def _entry(task: Task) -> str:
    # A repeated round draws fresh noise and is a second release: its attempt is its own entry.
    return f"{task.run}/{task.attempt}"
