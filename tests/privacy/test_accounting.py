"""What a history costs: two independent accountants agree, and the cheapest noise is found."""

import math
import time

import pytest
from opacus.accountants import GaussianAccountant, PRVAccountant
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

from privacy import accounting
from privacy.accounting import Event, accountant, calibrate, epsilon, epsilon_pld
from privacy.statement import ADJACENCY, UNIT
from protocol.errors import BudgetError, PrivacyError

DELTA = 1e-5
HISTORIES = [
    [Event(1.03, 0.032, 1600)],
    [Event(1.0, 1.0, 10)],
    [Event(5.0, 0.5, 1000)],
    [Event(50.0, 0.01, 1)],
    [Event(0.7, 0.01, 100)],
    [Event(3.0, 0.1, 50), Event(4.0, 1.0, 5)],
]
GRID = [
    [Event(noise, rate, steps)]
    for noise in (0.6, 0.8, 1.0, 1.5, 3.0, 10.0)
    for rate in (0.001, 0.01, 0.1, 0.5, 1.0)
    for steps in (1, 30, 1000, 20_000)
]
MIXED = [[first[0], second[0]] for first, second in zip(GRID[::7], GRID[3::7], strict=False)]


def gap(history: list[Event], delta: float) -> float:
    """The headline less the oracle."""
    return epsilon(history, delta) - epsilon_pld(history, delta)


@pytest.mark.parametrize("history", HISTORIES)
def test_the_accountants_agree(history: list[Event]) -> None:
    assert 0 <= gap(history, DELTA) <= 0.012


@pytest.mark.slow
@pytest.mark.parametrize("history", GRID + MIXED)
def test_the_accountants_agree_on_a_grid(history: list[Event]) -> None:
    """At both deltas in one test: most of what an accountant computes is the same for both."""
    if epsilon(history, 1e-3) > 50:  # and more at the smaller delta
        pytest.skip("an epsilon above 50 promises nothing, and costs minutes")
    assert 0 <= gap(history, 1e-3) <= 0.012
    assert epsilon(history, 1e-6) > 50 or 0 <= gap(history, 1e-6) <= 0.012


@pytest.mark.filterwarnings("ignore:Optimal order is the")
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_sum_is_as_fine_as_opacus_says_and_no_narrower(history: list[Event], delta: float) -> None:
    prvs = [PoissonSubsampledGaussianPRV(e.sampling_rate, e.noise_multiplier) for e in history]
    asked = (prvs, [e.steps for e in history], 0.008, delta / 1000)
    theirs, ours = PRVAccountant()._get_domain(*asked), accounting._Accountant()._get_domain(*asked)
    assert ours.dt == pytest.approx(theirs.dt, rel=1e-12)
    assert theirs.size <= ours.size < 1.05 * theirs.size
    assert ours.t_min == pytest.approx(-(ours.size / 2 - 1) * ours.dt)


def test_an_accountant_that_forgets_half_the_steps_is_caught() -> None:
    forgotten = [Event(e.noise_multiplier, e.sampling_rate, e.steps // 2) for e in HISTORIES[0]]
    assert not 0 <= epsilon(forgotten, DELTA) - epsilon_pld(HISTORIES[0], DELTA) <= 0.012


def test_gdp_is_refused_because_it_understates() -> None:
    with pytest.warns(UserWarning, match="can underestimate"):
        gdp = GaussianAccountant()
    gdp.history = [(0.6, 0.01, 500)]
    assert gdp.get_epsilon(DELTA) < 0.7 * epsilon_pld([Event(0.6, 0.01, 500)], DELTA)
    with pytest.raises(PrivacyError, match="understates"):
        accountant("gdp")


def test_an_accountant_is_looked_up_by_name() -> None:
    assert accountant("prv") is epsilon
    assert accountant("pld") is epsilon_pld
    with pytest.raises(PrivacyError, match="'rdp' is not one of prv, pld"):
        accountant("rdp")


@pytest.mark.parametrize("free", [[], [Event(1.0, 0.5, 0)], [Event(0.0, 0.0, 5)]])
def test_what_nobody_took_part_in_is_free(free: list[Event]) -> None:
    assert epsilon(free, DELTA) == 0
    assert epsilon_pld(free, DELTA) == 0


def test_no_delta_makes_an_epsilon_negative() -> None:
    assert epsilon([Event(1.0, 0.5, 10)], 0.9) == 0


def test_no_noise_has_no_bound() -> None:
    assert epsilon([Event(0.0, 0.1, 1)], DELTA) == math.inf
    assert epsilon_pld([Event(0.0, 0.1, 1)], DELTA) == math.inf


def test_a_hopeless_history_is_refused_before_it_takes_the_memory() -> None:
    assert epsilon([Event(0.1, 0.9, 100_000)], DELTA) == math.inf


def test_equal_events_compose_as_one_whatever_their_order() -> None:
    rounds = [Event(1.1, 0.05, 3), Event(0.9, 0.05, 2)] * 40
    together = [Event(0.9, 0.05, 80), Event(1.1, 0.05, 120)]
    assert epsilon(rounds, DELTA) == epsilon(together, DELTA)
    assert epsilon_pld(rounds, DELTA) == epsilon_pld(together, DELTA)


def test_two_federations_on_one_cohort_cost_less_than_their_sum_and_more_than_one() -> None:
    one = HISTORIES[0]
    assert epsilon(one, DELTA) + 1 < epsilon(one + one, DELTA) < 2 * epsilon(one, DELTA)


def test_asking_again_is_free() -> None:
    epsilon(HISTORIES[0], DELTA)
    start = time.perf_counter()
    epsilon(iter(HISTORIES[0]), DELTA)
    assert time.perf_counter() - start < 0.01


@pytest.mark.parametrize(
    "wrong", [(-1.0, 0.1, 1), (math.nan, 0.1, 1), (math.inf, 0.1, 1), (1.0, 1.1, 1), (1.0, 0.1, -1)]
)
def test_an_impossible_event_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(PrivacyError, match="noise must be"):
        Event(*wrong)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([], delta)


@pytest.mark.slow
def test_the_size_of_the_promise() -> None:
    """2,000 patients, batches of 64, 1,600 steps, epsilon 8: noise 1.03, as it was measured."""
    assert calibrate(8.0, DELTA, 64 / 2000, 1600) == pytest.approx(1.03, abs=0.01)


@pytest.mark.parametrize(("budget", "rate", "steps"), [(1.0, 0.01, 10), (3.0, 1.0, 20), (0.05, 0.01, 10)])
def test_the_calibrated_noise_is_enough_and_little_less_is_not(
    budget: float, rate: float, steps: int
) -> None:
    noise = calibrate(budget, DELTA, rate, steps)
    assert epsilon([Event(noise, rate, steps)], DELTA) <= budget
    assert epsilon([Event(noise - 3e-4, rate, steps)], DELTA) > budget


def test_what_is_spent_makes_the_rest_noisier() -> None:
    spent = [Event(10.0, 1.0, 20)]
    noise = calibrate(4.0, DELTA, 1.0, 20, spent)
    assert noise > calibrate(4.0, DELTA, 1.0, 20)
    assert epsilon([*spent, Event(noise, 1.0, 20)], DELTA) <= 4.0


def test_no_noise_brings_back_what_is_spent() -> None:
    with pytest.raises(BudgetError, match=r"no noise affords 5 steps within epsilon 0\.5"):
        calibrate(0.5, DELTA, 1.0, 5, [Event(10.0, 1.0, 20)])
    with pytest.raises(BudgetError, match=r"raise privacy\.epsilon"):
        calibrate(0.005, DELTA, 1.0, 5)


def test_no_steps_need_no_noise() -> None:
    assert calibrate(1.0, DELTA, 0.1, 0) == 0


def test_unit_and_adjacency_are_said() -> None:
    assert (UNIT, ADJACENCY) == ("patient", "add-or-remove one patient")
