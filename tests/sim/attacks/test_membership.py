"""A2: who was trained on is found without privacy, and not with the most that the shipped policy allows."""

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from scipy.stats import norm

from client.home import HOSPITAL
from client.policy import read_policy
from privacy.accounting import Event, epsilon
from protocol.recipe import Head, Modality, Part, Privacy, Recipe, Training
from sim.attacks.membership import found_at, halves, likelihood_ratios, measure
from sim.evidence import undefended
from tests.models.cases import recipe_for
from tests.sim.attacks.rigged import rig

NOISE = 3.6
"""What the shipped policy's epsilon takes for these 40 steps at rate 1/2; a test holds it to that."""
RECIPE = Recipe(
    "memory",
    {"ehr": Modality("table", 100)},
    {"grade": Head("classification", 1, Part("bce"))},
    Part("none"),
    Part("table_mlp", {"hidden": (32,)}),
    privacy=Privacy(epsilon=4.0, delta=1e-5, noise_multiplier=NOISE),
)
TRAINING = Training(steps=40, batch=16, optimizer="adam", rate=0.01)
EFFORT = {"models": 16, "patients": 64, "training": TRAINING}


def test_members_are_found_without_privacy() -> None:
    found = measure(undefended(RECIPE), 0, **EFFORT)
    assert found.members == found.others == 512
    assert found.found >= 0.4


def test_the_noise_is_what_the_shipped_policy_takes() -> None:
    most = read_policy(HOSPITAL).privacy.largest_epsilon_run
    assert most is not None
    assert 0.9 * most < epsilon([Event(NOISE, 0.5, TRAINING.steps or 0)], 1e-5) <= most


@pytest.mark.slow
def test_members_are_not_found_under_the_shipped_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, 0)
    assert fmean(measure(RECIPE, seed, **EFFORT).found for seed in range(4)) <= 0.05


@pytest.mark.slow
def test_the_mutant_that_clips_and_adds_no_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, 0)
    noiseless = replace(RECIPE, privacy=replace(RECIPE.privacy, noise_multiplier=1e-6, clip_norm=10.0))
    assert measure(noiseless, 0, **EFFORT).found > 0.05


def test_what_is_said_in_training_alone_is_no_evidence() -> None:
    """The pretext of `contrast` has no loss in evaluation, and the others are scored."""
    recipe = recipe_for("prob_bind")
    recipe = replace(recipe, heads={**recipe.heads, "pair": Head("pretext", 1, Part("contrast"))})
    assert measure(recipe, 0, models=2, patients=4, training=Training(steps=1, batch=2)).members == 4


def test_every_patient_is_in_half_of_the_models() -> None:
    member = halves(8, 30, 0)
    assert (member.sum(0) == 4).all()
    assert (member.sum(1) == 15).all()


def test_the_score_is_the_ratio_of_two_normal_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    member = halves(6, 10, 0)
    phi = torch.randn(6, 10, generator=generator, dtype=torch.float64) + 2 * member
    found = likelihood_ratios(phi, member)
    x, inside = phi[1:].numpy(), member[1:].numpy()
    expected = np.empty(10)
    means = [[x[side[:, n], n].mean() for n in range(10)] for side in (inside, ~inside)]
    spreads = []
    for side, mean in zip((inside, ~inside), means, strict=True):
        squares = sum(((x[side[:, n], n] - mean[n]) ** 2).sum() for n in range(10))
        spreads.append(np.sqrt(squares / sum(side[:, n].sum() - 1 for n in range(10))))
    for n in range(10):
        logs = [norm.logpdf(phi[0, n].item(), m[n], s) for m, s in zip(means, spreads, strict=True)]
        expected[n] = logs[0] - logs[1]
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-9)


def test_the_threshold_lets_one_in_a_hundred_pass() -> None:
    others = torch.arange(200.0)
    assert found_at(torch.tensor([196.0, 197.0, 198.0, 1000.0]), others) == 0.5
    assert found_at(others, others) == 0.01


def test_a_score_that_knows_nothing_finds_as_many_members_as_others() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 20_000, generator=generator)
    assert found_at(draws[0], draws[1]) == pytest.approx(0.01, abs=0.004)
