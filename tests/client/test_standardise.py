"""Tables are scaled by noised moments, paid for once, and by nothing else of the patients."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client import standardise
from client.app import evaluate
from client.site import Site, open_site
from client.spending import planned
from client.standardise import standardised
from imaging.cohort import Cohort
from privacy.accounting import Event, epsilon
from privacy.ledger import reading
from protocol.batch import Batch
from protocol.errors import BudgetError, RecipeError
from protocol.messages import Task
from protocol.recipe import Head, Modality, Part, Privacy, Recipe, Training, dump_recipe, load_recipe
from tests.federation import Federation

RECIPE = Recipe(
    "tables",
    {"labs": Modality("table", 2), "other": Modality("table", 1)},
    {"ill": Head("classification", 1, Part("bce"))},
    Part("memory"),
    Part("table_linear"),
    rounds=2,
    training=Training(batch=100, steps=2),
    privacy=Privacy(epsilon=4.0, noise_multiplier=9.0, statistics_noise=8.0),
)
PATIENTS = 4000


def cohort(patients: int = PATIENTS) -> Cohort:
    """A table of means (0.5, -1), deviations (0.5, 0.3), another that half of the patients lack."""
    generator = torch.Generator().manual_seed(0)
    labs = torch.randn(patients, 2, generator=generator) * torch.tensor([0.5, 0.3]) + torch.tensor([0.5, -1])
    other = torch.randn(patients, 1, generator=generator)
    other[::2] = torch.nan
    present = torch.ones(patients, 2, dtype=torch.bool)
    present[::2, 1] = False
    target = (labs[:, 0] > 0.5).long()
    cases = Batch({"labs": labs, "other": other}, present, {"ill": target}, {"ill": present[:, 0]})
    split = torch.tensor([0, 0, 0, 2])[torch.arange(patients) % 4]
    names = tuple(map(str, range(patients)))
    return Cohort("big", ("labs", "other"), names, torch.arange(patients), split, cases, None)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, {"big": cohort()}, monkeypatch)


def site_of(federation: Federation, recipe: Recipe = RECIPE, run: str = "run") -> Site:
    return open_site(federation.settings(run, "big"), dump_recipe(recipe))


def task(recipe: Recipe = RECIPE, number: int = 1) -> Task:
    return Task("train", "run", number, dump_recipe(recipe), "a")


def events(federation: Federation) -> list[Event]:
    """What the site's ledger holds against its patients, in order."""
    with reading(federation.settings("run", "big").books) as ledger:
        return [reservation.counted for reservation in ledger.reservations.values()]


def test_features_come_to_mean_zero_and_variance_one(federation: Federation) -> None:
    quiet = replace(RECIPE, privacy=Privacy(epsilon=50.0, noise_multiplier=9.0, statistics_noise=1.0))
    site = site_of(federation, quiet)
    inputs = standardised(site, task(quiet)).cohort.cases.inputs
    assert inputs["labs"][site.rows].mean(0).abs().max() < 0.15
    assert (inputs["labs"][site.rows].std(0) - 1).abs().max() < 0.25
    assert inputs["other"][1::2].std() == pytest.approx(1, abs=0.25)
    assert site.cohort.cases.inputs["labs"].mean() < 0  # the site's own cohort stays


def test_moments_are_measured_and_paid_once_a_run(federation: Federation) -> None:
    first = standardised(site_of(federation), task())
    again = standardised(site_of(federation), task(number=2))
    assert torch.equal(first.cohort.cases.inputs["labs"], again.cohort.cases.inputs["labs"])
    assert events(federation) == [Event(8.0, 1.0, 1)] * 2


def test_moments_are_noised(federation: Federation) -> None:
    """Another run of the same cohort is scaled otherwise; a mutant without noise is not."""

    def scales_differ() -> bool:
        found = [
            standardised(site_of(federation, run=run), replace(task(), run=run)).cohort.cases.inputs["labs"]
            for run in ("one", "two")
        ]
        return not torch.equal(*found)

    assert scales_differ()


def test_moments_without_noise_are_caught(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = standardise.moments
    monkeypatch.setattr(standardise, "moments", lambda v, p, low, high, z, g: honest(v, p, low, high, 0.0, g))
    with pytest.raises(AssertionError):
        test_moments_are_noised(federation)


@pytest.mark.slow
def test_training_gets_what_the_statistics_leave(federation: Federation) -> None:
    found = {
        noise: planned(
            site_of(federation, replace(RECIPE, privacy=Privacy(epsilon=4.0, statistics_noise=noise)))
        )
        for noise in (None, 3.0)
    }
    assert found[3.0].event.noise_multiplier > found[None].event.noise_multiplier
    paid = [Event(3.0, 1.0, 1)] * 2 + [replace(found[3.0].event, steps=4)]
    assert 3.9 < epsilon(paid, found[3.0].delta) <= 4.0


def test_statistics_that_nobody_can_pay_are_refused_before_anything_is_measured(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = replace(RECIPE, privacy=Privacy(epsilon=0.5, noise_multiplier=90.0, statistics_noise=1.0))
    monkeypatch.setattr(standardise, "moments", lambda *args: pytest.fail("measured"))
    with pytest.raises(BudgetError, match=r"round 0 would exceed epsilon 0\.5"):
        standardised(site_of(federation, dear), task(dear))
    assert events(federation) == []


def test_what_a_kill_left_reserved_counts_and_is_taken_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, scales: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(standardise, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            standardised(site_of(federation), task())
    assert len(events(federation)) == 2
    standardised(site_of(federation), task())
    assert len(events(federation)) == 2


def test_evaluation_sees_the_same_scale(federation: Federation) -> None:
    site = site_of(federation)
    scaled = standardised(site, task())
    asked = Task("evaluate", "run", 1, dump_recipe(RECIPE), facts={"split": "test", "subsets": False})
    told = evaluate(
        site, replace(asked, vectors={g: torch.ones_like(v) for g, v in site.flat.vectors.items()})
    )
    again = evaluate(
        scaled, replace(asked, vectors={g: torch.ones_like(v) for g, v in site.flat.vectors.items()})
    )
    assert told.facts["scores"] != again.facts["scores"]  # scaled once, not twice
    assert len(events(federation)) == 2


def test_without_the_option_nothing_is_measured(federation: Federation) -> None:
    plain = replace(RECIPE, privacy=Privacy(epsilon=4.0))
    site = site_of(federation, plain)
    assert standardised(site, task(plain)) is site


def test_statistics_need_a_budget() -> None:
    with pytest.raises(RecipeError, match=r"privacy\.statistics_noise: is part of a budget"):
        load_recipe(dump_recipe(replace(RECIPE, privacy=Privacy())), ["privacy.statistics_noise=2"])
