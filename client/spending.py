"""What a private round costs, decided at the site before it trains.

The site knows its number of patients, so the site turns the recipe's budget into noise:
sampling rate, steps and (unless the recipe fixes it) the least noise multiplier that affords
every round. The ledger reserves the round first; what would exceed the budget is refused.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from client.site import Site
from privacy.accounting import Event, calibrate, epsilon, epsilon_pld
from privacy.ledger import Ledger
from privacy.statistics import price
from protocol.errors import BudgetError
from protocol.messages import Task
from protocol.recipe import Recipe


@dataclass(frozen=True)
class Spending:
    """One round's private steps: the event, its delta, and the patients' rows.

    `slots`: steps of an epoch in which each patient takes part once (`privacy.ftrl`); 0: Poisson.
    """

    event: Event
    delta: float
    expected_batch: float
    cases_of: list[Tensor]
    slots: int = 0


def reserve(site: Site, task: Task) -> Spending | None:
    """Reserve this round in the ledger; None without privacy, `BudgetError` when unaffordable."""
    budget = site.recipe.privacy.epsilon
    if budget is None:
        return None
    spending = planned(site)
    _reserve(site, task, task.round, spending.event)
    return spending


@contextmanager
def pay(site: Site, task: Task) -> Generator[None]:
    """Reserve the recipe's statistics as round 0 and commit them at the end; `BudgetError` before."""
    events = statistics(site.recipe).values()
    for event in events:
        _reserve(site, task, 0, event)
    yield
    for event in events:
        _ledger(site).commit(_entry(task), 0, event.steps)


def statistics(recipe: Recipe) -> dict[str, Event]:
    """Return table -> what its moments cost; {} where none are taken."""
    noise = recipe.privacy.statistics_noise
    tables = [name for name, modality in recipe.modalities.items() if modality.kind == "table"]
    return {} if noise is None else {name: price(noise) for name in tables}


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
    slots = math.ceil(1 / rate) if privacy.mechanism == "ftrl" else 0
    expected = patients / slots if slots else rate * patients
    if slots:  # an epoch is one event, and nothing is gained from drawing
        rate, steps = 1.0, recipe.training.epochs
    delta = privacy.delta or 1 / (10 * patients)
    before = tuple(statistics(recipe).values())
    budget = privacy.epsilon or 0
    noise = privacy.noise_multiplier or _least_noise(budget, delta, rate, steps * recipe.rounds, before)
    return Spending(Event(noise, rate, steps), delta, expected, cases_of, slots)


@lru_cache(maxsize=256)
def _least_noise(budget: float, delta: float, rate: float, steps: int, before: tuple[Event, ...]) -> float:
    return calibrate(budget, delta, rate, steps, before)


def _reserve(site: Site, task: Task, number: int, event: Event) -> None:
    ledger, budget, delta = _ledger(site), site.recipe.privacy.epsilon or 0, planned(site).delta
    if ledger.would_exceed(budget, delta, event):
        spent_so_far = epsilon(tuple(ledger.events()), delta)
        msg = (
            f"round {number} would exceed epsilon {budget:g} at delta {delta:.3g} "
            f"(spent {spent_so_far:.3f}): raise privacy.epsilon, or let the run go on without this site"
        )
        raise BudgetError(msg)
    ledger.reserve(_entry(task), number, event)


def _ledger(site: Site) -> Ledger:
    return Ledger(site.settings.state / "ledger.jsonl")


def _entry(task: Task) -> str:
    # A repeated round draws fresh noise and is a second release: its attempt is its own entry.
    return f"{task.run}/{task.attempt}"
