"""A3: malformed answers are refused before anything is summed, and a robust strategy shrugs off a liar."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.app import ANSWERS
from client.training import train
from imaging.cohort import Cohort
from protocol.batch import Batch
from protocol.recipe import Evaluation, Head, Modality, Part, Recipe, Training
from server import checkpoint
from server.scores import mean_over_sites
from sim.attacks.poison import MALFORMED, lying, sign_flip
from tests.federation import Federation

SITES = ("a", "b", "c", "d", "liar")
RECIPE = Recipe(
    "five",
    {"ehr": Modality("table", 5)},
    {"grade": Head("classification", 1, Part("bce"))},
    Part("memory"),
    Part("table_linear"),
    rounds=4,
    training=Training(batch=32, rate=0.5, steps=4),
    evaluation=Evaluation(select="grade/accuracy", every=4),
)
POINTS = 0.02


def cohort(site: str) -> Cohort:
    """Three hundred patients whose grade is a noisy linear function of their table."""
    generator = torch.Generator().manual_seed(sum(map(ord, site)))
    x = torch.randn(300, 5, generator=generator)
    grade = (x @ torch.tensor([2.0, -1.0, 1.0, 0.0, 0.5]) + torch.randn(300, generator=generator) > 0).long()
    everybody = torch.arange(300)
    has = torch.ones(300, dtype=torch.bool)
    cases = Batch({"ehr": x}, has[:, None], {"grade": grade}, {"grade": has})
    names = tuple(map(str, range(300)))
    return Cohort(site, ("ehr",), names, everybody, (everybody % 3).clamp(max=2), cases, None)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, {site: cohort(site) for site in SITES}, monkeypatch)


def accuracy(federation: Federation, recipe: Recipe, run: str) -> float:
    """The final parameters on the held-out patients of the honest sites."""
    record = federation.run(recipe, run)
    assert record.status == "finished"
    honest = {site: scores["ehr"] for site, scores in record.subsets.items() if site != "liar"}
    return mean_over_sites(honest, "grade/accuracy")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_counts_for_nothing(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Through the whole loop: refused in every round, and the rest end as if the liar had not been there."""
    short = replace(RECIPE, rounds=2, evaluation=Evaluation(every=2))
    monkeypatch.setitem(ANSWERS, "train", lying(train, {"liar": MALFORMED[name]}))
    record = federation.run(short, "poisoned")
    told = [{s.site: s.status for s in ended.sites} for ended in record.rounds]
    assert told == [dict.fromkeys(SITES[:-1], "accepted") | {"liar": "refused"}] * 2
    assert all(s.reason for ended in record.rounds for s in ended.sites if s.site == "liar")
    del federation.held["liar"]
    federation.sites = SITES[:-1]
    monkeypatch.setitem(ANSWERS, "train", train)
    federation.run(short, "without")
    left, right = (
        checkpoint.load(federation.folder / run / "checkpoints").vectors for run in ("poisoned", "without")
    )
    assert all(torch.equal(left[group], right[group]) for group in left)


def test_one_liar_in_five_costs_a_robust_strategy_two_points_at_most(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = accuracy(federation, RECIPE, "clean")
    monkeypatch.setitem(ANSWERS, "train", lying(train, {"liar": sign_flip}))
    cost = {
        name: clean - accuracy(federation, replace(RECIPE, strategy=Part(name)), name)
        for name in ("fedavg", "median", "trimmed_mean", "krum")
    }
    assert clean > 0.8
    assert cost.pop("fedavg") > 0.1
    assert max(cost.values()) <= POINTS
