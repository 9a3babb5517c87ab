"""D4: what one run tells of who took part stays below the claim, and four-fold influence is found out."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom
from torch import Tensor

from client import training
from client.sampling import poisson
from models.catalogue import build_model
from privacy.accounting import Event
from privacy.noise import SecureGenerator
from sim.attacks import canaries
from sim.attacks.canaries import DELTA, Measured, best_number, how_many, lower_bound, measure, p_value, ratios
from tests.models.cases import PRETEXT, batch_for, presence, recipe_for
from tests.sim.attacks.rigged import TABLE, rig

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
RATE, STEPS = 0.1, 40
EVENT = Event(1.6368, RATE, STEPS)
"""Costs epsilon 2.0 at the audit's delta."""


# -- The bound -------------------------------------------------------------------------------------
def by_hand(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 as a sum over outcomes, term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [math.comb(guesses, w) * q**w * (1 - q) ** (guesses - w) for w in range(guesses + 1)]
    above = sum(chance[right:])
    slopes = [sum(chance[max(right - i, 0) : right]) / i for i in range(1, right + 1)]
    return min(1.0, above + 2 * canaries * delta * max(slopes, default=0.0))


@given(st.integers(1, 40), st.data())
def test_the_p_value_is_the_theorem_term_by_term(guesses: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, guesses))
    epsilon, delta = data.draw(st.floats(0, 6)), data.draw(st.sampled_from([0.0, 1e-5, 1e-2]))
    expected = by_hand(50, guesses, right, epsilon, delta)
    assert p_value(50, guesses, right, epsilon, delta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 400), st.data())
def test_without_delta_the_bound_is_clopper_and_pearsons(guesses: int, data: st.DataObject) -> None:
    """The exact binomial interval of the share of right guesses, by another function of another library."""
    right = data.draw(st.integers(1, guesses))
    share = beta.ppf(0.05, right, guesses - right + 1)
    expected = max(0.0, math.log(share / (1 - share)))
    assert lower_bound(1000, guesses, right, 0.0) == pytest.approx(expected, abs=1e-5)


@given(st.integers(2, 300), st.data())
def test_more_right_guesses_never_lower_the_bound_and_delta_never_raises_it(
    guesses: int, data: st.DataObject
) -> None:
    right = data.draw(st.integers(1, guesses))
    assert lower_bound(1000, guesses, right, DELTA) >= lower_bound(1000, guesses, right - 1, DELTA) - 1e-6
    assert lower_bound(1000, guesses, right, DELTA) <= lower_bound(1000, guesses, right, 0.0) + 1e-6


def test_the_p_value_grows_with_epsilon() -> None:
    values = [p_value(1000, 100, 90, epsilon / 10, DELTA) for epsilon in range(60)]
    assert all(left <= right for left, right in pairwise(values))


def test_a_thousand_right_guesses_show_no_more_than_this() -> None:
    assert lower_bound(1000, 1000, 1000, 0.0) == pytest.approx(5.81, abs=0.01)
    assert lower_bound(1000, 1000, 500, DELTA) == 0.0


def test_randomised_response_is_refuted_as_often_as_the_level_says() -> None:
    """Guesses that are right with exactly e^eps / (1 + e^eps): the bound exceeds eps in at most 5 %."""
    epsilon, guesses = 1.5, 200
    right = binom.rvs(guesses, 1 / (1 + math.exp(-epsilon)), size=4000, random_state=0)
    refuted = [v for v in set(right.tolist()) if lower_bound(guesses, guesses, v, 0.0) > epsilon]
    assert 0.01 < sum((right == v).mean() for v in refuted) <= 0.06


def test_a_ratio_is_the_mixtures() -> None:
    marks = torch.tensor([[0.3], [1.4]], dtype=torch.float64)

    def density(x: float, mean: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * 0.8**2))

    expected = sum(math.log((0.7 * density(x, 0) + 0.3 * density(x, 1)) / density(x, 0)) for x in (0.3, 1.4))
    assert float(ratios(marks, Event(0.8, 0.3, 2))) == pytest.approx(expected)


def test_how_many_to_guess_is_known_before_the_run() -> None:
    """The less noise, the more guesses are worth making; where all are sure, all are made."""
    assert how_many(EVENT, 1000) == how_many(EVENT, 1000)
    assert how_many(EVENT, 1000) < how_many(Event(0.3, RATE, STEPS), 1000)
    assert how_many(Event(0.0, 1.0, 1), 1000) == 1000
    assert best_number(torch.full((100,), 20.0)) == 100


# -- The project's own private training --------------------------------------------------------------
def audited(patch: pytest.MonkeyPatch, seed: int, event: Event = EVENT) -> Measured:
    rig(patch, seed)
    return measure(TABLE, event, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_measured_stays_below_the_claim(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audited(monkeypatch, seed)
    assert found.canaries == 1000
    assert found.claim == pytest.approx(2.0, abs=0.01)
    assert found.bound <= found.claim


def four_rows(
    cases_of: list[Tensor], rate: float, steps: int, generator: SecureGenerator
) -> Iterator[Tensor]:
    """The mutant: a patient who is drawn stands in the batch four times, each time within the clip norm."""
    for rows in poisson(cases_of, rate, steps, generator):
        yield rows.repeat_interleave(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_patient_as_four_bounded_rows_is_flagged(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "poisson", four_rows)
    found = audited(monkeypatch, seed)
    assert found.bound > found.claim


def test_without_noise_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    found = audited(monkeypatch, 0, Event(0.0, RATE, STEPS))
    assert found.bound > 4.0
    assert found.claim == math.inf


def test_the_audit_hears_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under weak noise it finds most of what there is: a bound of 0 everywhere would pass the rest."""
    assert audited(monkeypatch, 1, Event(0.6, RATE, STEPS)).bound > 1.0


def test_every_step_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, 0)
    steps = []
    measure(TABLE, Event(1.0, RATE, 7), 0, canaries=20, watch=lambda: steps.append(1))
    assert len(steps) == 7


def test_a_mark_moves_a_step_by_the_clip_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and with everybody in every step a canary's coordinate is 1, and 0 if it is not there."""
    joined = torch.tensor([True, False, True])
    marks = canaries.observed(canaries._clinic(TABLE, joined, 0), Event(0.0, 1.0, 2), lambda: None)
    torch.testing.assert_close(marks, joined.double().expand(2, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PRETEXT)
def test_a_model_beside_the_marks_gives_all_that_it_gives_alone(name: str) -> None:
    recipe = recipe_for(name)
    model, batch = build_model(recipe), batch_for(recipe, presence(recipe, [tuple(recipe.modalities)]))
    beside = canaries._Marked(model, 3)(batch)
    assert beside.pop(canaries._MARK).shape == (1, 3)
    alone = model(batch)
    assert beside.keys() == alone.keys() == recipe.heads.keys()
    assert all(torch.equal(beside[head], alone[head]) for head in alone)
