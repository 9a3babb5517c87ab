"""What a private round costs, decided and written down at the site before it trains.

    released   a task that was answered before gets its bytes again
    reserve    the ledger counts the round, or refuses it
    train      ...
    store, commit   the reply's bytes, then that they count
    leave

The site knows its number of patients, so the site turns the recipe's budget into noise:
sampling rate, steps and (unless the recipe fixes it) the least noise multiplier that affords
every round of the stage after what the same patients paid in other runs and earlier stages.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from client.policy import Floor
from client.site import Site
from privacy.accounting import Event, alone, calibrate, epsilon, epsilon_pld
from privacy.ledger import FILE, Ask, Cap, History, Ledger, Patients, reading, spending_from
from privacy.pace import pace, slots
from privacy.statistics import price
from protocol.messages import Reply, Task, fingerprint, pack_task, reply_from_bytes, reply_to_bytes
from protocol.recipe import Recipe, recipe_hash
from protocol.stages import Stage, stage_in, stages_of


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


Work = Callable[[Site, Task, Spending | None], Reply]


def paid(site: Site, task: Task, work: Work) -> Reply:
    """Answer a task by `work`, once its privacy is paid; without privacy there is nothing to pay.

    Raises:
        BudgetError: if a patient would have paid more than the recipe or the hospital allows.
        PrivacyError: if the task was asked before with another model.
    """
    if site.recipe.privacy.epsilon is None:
        return work(site, task, None)
    with spending_from(site.settings.books) as ledger:
        ask = Ask(task.run, task.round, task.attempt, _question(task))
        if (kept := ledger.released(ask)) is not None:
            return reply_from_bytes(kept)
        patients = ledger.patients(_trained_on(site))
        spending = planned(site, _elsewhere(ledger, patients, task))
        ledger.reserve(ask, patients, spending.event, _caps(site, spending))
        reply = work(site, task, spending)
        reply = replace(reply, facts={**reply.facts, **spent(ledger, patients, spending)})
        ledger.release(ask, spending.event.steps, reply_to_bytes(reply))
        return reply


@contextmanager
def pay(site: Site, task: Task) -> Generator[None]:
    """Reserve the recipe's statistics as round 0 of the run, release them at the end; `BudgetError` before.

    What was reserved and never released (a crash) is taken up: nothing had come of it.
    """
    with spending_from(site.settings.books) as ledger:
        patients, base = ledger.patients(_trained_on(site)), recipe_hash(site.recipe)
        asked = [
            (Ask(task.run, 0, f"statistics/{name}", base), event)
            for name, event in statistics(site.recipe).items()
        ]
        limits = _caps(site, planned(site, _elsewhere(ledger, patients, task)))
        for ask, event in asked:
            ledger.reserve(ask, patients, event, limits)
        yield
        for ask, event in asked:
            ledger.release(ask, event.steps, b"")


def statistics(recipe: Recipe) -> dict[str, Event]:
    """Return table -> what its moments cost; {} where none are taken."""
    noise = recipe.privacy.statistics_noise
    tables = [name for name, modality in recipe.modalities.items() if modality.kind == "table"]
    return {} if noise is None else {name: price(noise) for name in tables}


def caps(recipe: Recipe, floor: Floor, delta: float) -> dict[str, Cap]:
    """Return every limit that a round must keep, by the key that sets it: the recipe's and the policy's.

    The recipe's epsilon and the policy's for a cohort bound all that a patient has ever paid here.
    """
    asked = {
        "privacy.epsilon": (recipe.privacy.epsilon, False),
        "privacy.largest_epsilon_run": (floor.largest_epsilon_run, True),
        "privacy.largest_epsilon_cohort": (floor.largest_epsilon_cohort, False),
    }
    return {
        key: Cap(limit, delta, f"raise {key}, or let the run go on without this site", of_run)
        for key, (limit, of_run) in asked.items()
        if limit is not None
    }


def spent(ledger: Ledger, patients: Patients, spending: Spending) -> dict[str, Any]:
    """Return what the patient who paid most has paid so far, in all runs, by both accountants.

    Where noise is split over sites, also what it is if no other site is honest.
    """
    histories, delta = ledger.histories(patients), spending.delta
    facts = {
        "epsilon": max(epsilon(history, delta) for history in histories),
        "epsilon_pld": max(epsilon_pld(history, delta) for history in histories),
        "delta": delta,
        "noise_multiplier": spending.event.noise_multiplier,
    }
    if spending.event.shares > 1:
        facts["epsilon_alone"] = max(epsilon(alone(history), delta) for history in histories)
    return facts


def planned(site: Site, before: Sequence[History] = ((),)) -> Spending:
    """Return one round's spending under the recipe and the policy at this site.

    `before`: what patients of the cohort have paid in other runs; who paid most decides.
    """
    owners = site.cohort.patient[site.rows]
    cases_of = [site.rows[owners == patient] for patient in owners.unique()]
    patients, floor = len(cases_of), site.policy.privacy
    prices = [priced(site.recipe, floor, patients, history) for history in before]
    event, delta = max(prices, key=lambda price: price[0].noise_multiplier)
    turns = slots(site.recipe, patients)
    expected = patients / turns if turns else event.sampling_rate * patients
    return Spending(event, delta, expected, cases_of, turns)


def priced(recipe: Recipe, floor: Floor, patients: int, spent: History = ()) -> tuple[Event, float]:
    """Return one round's event at a site of so many patients, and the delta it is accounted at.

    `spent`: what these patients have paid before, if the budget is for all of it together.
    Raises `BudgetError` where no noise affords the recipe's rounds.
    """
    asked = recipe.privacy
    rate, steps = pace(recipe, patients)
    delta, budget = floor.delta(recipe, patients), floor.budget(asked.epsilon or math.inf)
    before = (*spent, *statistics(recipe).values())
    noise = asked.noise_multiplier or _least_noise(budget, delta, rate, steps * recipe.rounds, before)
    noise = max(noise, floor.least_noise_multiplier)
    return Event(noise, rate, steps, recipe.secure.noise_over or 1), delta


def by_stage(
    recipe: Recipe, floor: Floor, patients: int, spent: History = ()
) -> Iterator[tuple[Stage, History, Event, float]]:
    """Yield each stage, what was paid before it, the event of one of its rounds, and its delta.

    `spent`: what these patients have paid in other runs. Raises `BudgetError` where no noise affords a stage.
    """
    before = spent
    for stage in stages_of(recipe):
        event, delta = priced(stage.recipe, floor, patients, before)
        yield stage, before, event, delta
        before = (*before, replace(event, steps=event.steps * stage.recipe.rounds))


def history(books: Path) -> tuple[Event, ...]:
    """Return all that the ledger in a site's folder counts, as if one patient had been in every cohort."""
    if not (books / FILE).exists():
        return ()
    with reading(books) as ledger:
        return tuple(reservation.counted for reservation in ledger.reservations.values())


@lru_cache(maxsize=256)
def _least_noise(budget: float, delta: float, rate: float, steps: int, before: History) -> float:
    return calibrate(budget, delta, rate, steps, before)


def _caps(site: Site, spending: Spending) -> list[Cap]:
    return list(caps(site.recipe, site.policy.privacy, spending.delta).values())


def _elsewhere(ledger: Ledger, patients: Patients, task: Task) -> Sequence[History]:
    """Return what was paid in other runs, and in the earlier stages of this one."""
    first = stage_in(task.recipe, task.round)[0].first
    return ledger.histories(patients, lambda each: each.ask.run != task.run or 0 < each.ask.round < first)


def _trained_on(site: Site) -> list[str]:
    cohort = site.cohort
    return [cohort.patients[index] for index in cohort.patient[site.rows].unique().tolist()]


def _question(task: Task) -> str:
    # Not `facts`: what the coordinator tells besides changes when it asks again.
    return fingerprint(pack_task(replace(task, facts={})))[0]
