"""The protocol on simulated sites: the same scores as training's own, and nothing absent is ever read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client import evaluation
from client.site import Site, open_site
from models import failures
from models.masking import zero_where_absent
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.metrics import subset_name, subsets_of
from protocol.recipe import Evaluation, Head, Part, dump_recipe
from server.estimates import Condition
from server.resampling import draws, scores
from sim import robustness
from sim.robustness import conditions, examined, judged, protocol_of
from tests.federation import MODALITIES, RECIPE, Federation, cohorts

BOTH = replace(
    RECIPE,
    heads=RECIPE.heads | {"grade": Head("classification", 1, Part("bce"))},
    evaluation=Evaluation(select="tumour/dice"),
)


def graded() -> dict[str, object]:
    """The federation's sites, whose patients have a grade too."""
    return {
        site: replace(
            cohort,
            cases=replace(
                cohort.cases,
                targets=cohort.cases.targets | {"grade": cohort.patient % 2},
                labelled=cohort.cases.labelled | {"grade": torch.ones(len(cohort.patient), dtype=torch.bool)},
            ),
        )
        for site, cohort in cohorts().items()
    }


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    yield Federation(tmp_path, graded(), monkeypatch)
    open_site.cache_clear()


def opened(federation: Federation) -> Iterator[Site]:
    for name in federation.sites:
        site = open_site(federation.settings("run", name), dump_recipe(BOTH))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            site.flat.load({g: 0.3 * torch.randn_like(v) for g, v in site.flat.vectors.items()})
        yield site


def found(federation: Federation, metric: str, families: tuple[str, ...] = ()) -> dict[Condition, dict]:
    """Condition -> site -> metric -> tally of the data."""
    protocol = protocol_of(BOTH, metric)
    shown = [each for each in conditions(BOTH, protocol) if not families or each.family in families]
    samples, patients = examined(opened(federation), shown, protocol, 0, lambda: None)
    (data,) = draws(patients, 0, 0)
    return {
        c: scores({site: each.sample for site, each in seen.items()}, data) for c, seen in samples.items()
    }


@pytest.mark.parametrize("metric", ["tumour/dice", "grade/auroc", "grade/ece", "grade/balanced_accuracy"])
def test_clean_and_declared_scores_are_those_of_the_sites_own_evaluation(
    federation: Federation, metric: str
) -> None:
    """Computed patient by patient here and all at once there; own, and every subset that a site can show."""
    here = found(federation, metric, ("own", "declared"))
    subsets = subsets_of(MODALITIES)

    for site in opened(federation):
        there = evaluation.evaluate(site.flat.model, site.cohort, BOTH, "test", subsets)
        there |= evaluation.evaluate(site.flat.model, site.cohort, BOTH, "test", None)
        for name in ("own", *map(subset_name, subsets)):
            condition = Condition("own" if name == "own" else "declared", name)
            mine = here.get(condition, {}).get(site.settings.site, {})
            assert (metric in mine) == (name in there)
            if name in there:
                assert mine[metric].value == pytest.approx(there[name][metric].value, abs=1e-6, nan_ok=True)
                assert mine[metric].count == there[name][metric].count


def test_a_pattern_is_shown_to_the_same_cases_in_every_family(federation: Federation) -> None:
    """To those who have what is left: nobody in the west has flair among the test patients."""
    here = found(federation, "tumour/dice")

    for family in ("zeroed", "rmm0.25", "rmm0.75"):
        assert here[Condition(family, "t1")].keys() == here[Condition("declared", "t1")].keys()
    assert here[Condition("declared", "t1")].keys() == {"north", "west"}
    assert here[Condition("declared", "flair+t1")].keys() == {"north"}
    assert Condition("zeroed", "flair+t1") not in here
    assert {c.family for c in here} >= {"own", "nm", "blur", "ghost", "gibbs"}


def test_a_case_that_has_nothing_to_lose_is_unchanged(federation: Federation) -> None:
    """The south has flair alone: what it lacks fails in no family."""
    here = found(federation, "tumour/ece", ("own", "declared", "zeroed", "rmm0.5"))
    values = {
        c.family: told["south"]["tumour/ece"] for c, told in here.items() if c.level in ("own", "flair")
    }

    assert values.keys() == {"own", "declared", "zeroed", "rmm0.5"}
    assert len(set(values.values())) == 1
    assert here[Condition("zeroed", "flair")]["north"] != here[Condition("declared", "flair")]["north"]


def _everything(federation: Federation, absent: float) -> dict:
    for cohort in federation.held.values():
        for column, name in enumerate(MODALITIES):
            x, has = cohort.cases.inputs[name], cohort.cases.present[:, column]
            x.copy_(zero_where_absent(x, has))
            x[~has] = absent
    return found(federation, "tumour/ece", ("own", "zeroed", "rmm0.5", "nm", "blur"))


def _reading(batch: Batch, modalities: object, names: object, change: object) -> Batch:
    """A mutant that fails what is not there, and calls it present."""
    inputs = {name: change(x) if name in names else x for name, x in batch.inputs.items()}  # type: ignore[operator]
    return Batch(inputs, batch.present | True, batch.targets, batch.labelled)


def test_absent_contents_change_no_number(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = _everything(federation, 0.0)

    assert _everything(federation, torch.nan) == clean
    assert _everything(federation, 1e4) == clean
    for module in (failures, robustness):
        monkeypatch.setattr(module, "changed", _reading)
    assert _everything(federation, 1e4) != clean


def test_chance_is_the_patient_s_own(federation: Federation) -> None:
    """A site with half its patients gives those the same failures and so the same scores."""
    protocol = protocol_of(BOTH, "tumour/ece")
    shown = [each for each in conditions(BOTH, protocol) if each.family in ("rmm0.5", "nm", "spike")]
    whole, patients = examined(opened(federation), shown, protocol, 0, lambda: None)
    north = federation.held["north"]
    one = north.patient == judged_patients(federation)[0]
    federation.held["north"] = replace(
        north, patient=north.patient[one], split=north.split[one], cases=north.cases.map(lambda x: x[one])
    )
    open_site.cache_clear()
    half, _ = examined(opened(federation), shown, protocol, 0, lambda: None)
    first = np.eye(patients["north"])[0]

    assert patients["north"] == 2
    for condition, seen in half.items():
        alone = seen["north"].sample["tumour/ece"](np.ones(1))
        assert alone == whole[condition]["north"].sample["tumour/ece"](first)
    other, _ = examined(opened(federation), shown, protocol, 1, lambda: None)
    assert any(
        other[c]["north"].sample["tumour/ece"](np.ones(1)) != seen["north"].sample["tumour/ece"](np.ones(1))
        for c, seen in half.items()
    )


def judged_patients(federation: Federation) -> list[int]:
    cohort = federation.held["north"]
    return cohort.patient[judged(cohort, protocol_of(BOTH))].unique().tolist()


def test_progress_is_told_for_every_condition_at_every_site(federation: Federation) -> None:
    protocol, heard = protocol_of(BOTH), []
    shown = conditions(BOTH, protocol)[:7]
    examined(opened(federation), shown, protocol, 0, lambda: heard.append(1))

    assert len(heard) == 3 * len(shown)


@pytest.mark.parametrize("metric", ["", "dice", "tumor/dice", "tumour/beauty", "tumour/hd95_mm"])
def test_a_metric_that_does_not_exist_is_refused(metric: str) -> None:
    with pytest.raises(RecipeError, match="name one as head/metric, heads: tumour, grade"):
        protocol_of(replace(BOTH, evaluation=Evaluation()), metric)
