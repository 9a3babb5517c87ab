"""Noise that sites share out: the sum carries all of it, whoever drops out, and rounding costs nothing."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from numpy.typing import NDArray
from scipy.stats import norm

from privacy import split as room
from privacy.accounting import Event, alone, epsilon
from privacy.noise import SecureGenerator
from privacy.split import FINENESS, Split, split_of
from protocol.errors import PrivacyError
from protocol.recipe import Privacy, Secure, Training
from tests.federation import recipe
from tests.privacy.secagg.federations import expected, names, play, same, sites

SIGMA, SHARES, FEWEST = 1.3, 3, 4
SPLIT = Split(SIGMA, SHARES, move=-1.0, cases=100)
DRAWS = 200_000

Floats = NDArray[np.float64]


def contribution(split: Split = SPLIT, size: int = DRAWS, value: float = 0.0) -> NDArray[np.uint32]:
    """One site's integers for a clipped sum that is `value` everywhere."""
    words = split.encode(torch.full((size,), value), SecureGenerator())
    return words.numpy().view(np.uint32)


def carried(contributors: list[Callable[[], NDArray[np.uint32]]]) -> float:
    """The stddev of what the sum of these contributors' integers stands for, by sigma."""
    total = sum(each() for each in contributors)
    assert isinstance(total, np.ndarray)
    mean = SPLIT.decode(total, len(contributors), len(contributors)).astype(float)
    return float(mean.std()) * len(contributors) / SIGMA


def enough(ratio: float) -> bool:
    """Within 2 % of the target, or more: five sigma of the estimate are 0.8 %."""
    return ratio >= 0.98


def test_the_sum_of_the_honest_shares_carries_the_target_within_two_percent() -> None:
    assert carried([contribution] * SHARES) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("colluders", [0, 1])
def test_with_the_fewest_contributors_enough_noise_is_left(colluders: int) -> None:
    """Also when a site that knows its own share takes it away."""
    assert enough(carried([contribution] * (FEWEST - colluders)))


def test_a_site_that_halves_its_noise_is_seen() -> None:
    def half() -> NDArray[np.uint32]:
        words = SecureGenerator().normal_(torch.empty(DRAWS), 0.5 * SPLIT.share / SPLIT.step).round().int()
        return words.numpy().view(np.uint32)

    assert not enough(carried([contribution] * (SHARES - 1) + [half]))


def test_noise_calibrated_for_the_whole_roster_is_seen_when_one_drops_out() -> None:
    """The mutant: shares for as many as were asked, not for the fewest that may be summed."""
    asked = FEWEST + 1
    mutant = Split(SIGMA, asked, SPLIT.move, SPLIT.cases)
    assert enough(carried([lambda: contribution(mutant)] * asked))
    assert not enough(carried([lambda: contribution(mutant)] * FEWEST))


def test_a_share_is_gaussian_around_the_clipped_sum() -> None:
    words = contribution(value=0.5).view(np.int32) * SPLIT.step
    assert words.mean() == pytest.approx(0.5, abs=5 * SPLIT.share / math.sqrt(DRAWS))
    assert np.mean(np.abs(words - 0.5) < SPLIT.share) == pytest.approx(0.6827, abs=0.006)


def test_no_seed_repeats_a_share() -> None:
    torch.manual_seed(0)
    once = contribution(size=50)
    torch.manual_seed(0)
    assert not np.array_equal(once, contribution(size=50))


def test_a_value_beyond_the_grid_is_clipped_and_never_wraps() -> None:
    far = contribution(size=100, value=1e30).view(np.int32) * SPLIT.step
    assert far.min() > 900 * SIGMA


@pytest.mark.parametrize("gone", [{}, {"s01": 2}, {"s01": 3, "s03": 0}])
def test_noised_sums_are_exact_modulo_two_to_the_32_whoever_dies(gone: dict[str, int]) -> None:
    federation = sites(6, 4, FEWEST)
    for site in names(6):
        federation.values[site]["shared"][:] = contribution(size=5, value=1e3)  # type: ignore[index]
    found = play(federation, gone)
    assert found
    assert same(found, expected(federation, gone))


def test_a_sum_of_masks_that_were_not_taken_away_is_refused() -> None:
    with pytest.raises(PrivacyError, match="a site masked otherwise"):
        SPLIT.decode(np.zeros(3, np.uint32), 1000, 3)


def test_the_recipe_says_how_noise_is_split() -> None:
    privacy = Privacy(epsilon=3.0, noise_multiplier=2.0, clip_norm=0.5, sampling_rate=0.25)
    secure = Secure(enabled=True, fewest=4, noise_over=3, cases=70)
    whole = recipe(privacy=privacy, secure=secure, training=Training(steps=1, rate=0.1))
    assert split_of(whole) == Split(1.0, 3, -0.4, 70)
    assert split_of(recipe()) is None


# -- What rounding tells -----------------------------------------------------------------------------


def _share_pmf(centre: float, stddev: float, reach: int) -> Floats:
    """The exact distribution of round(centre + Normal(0, stddev^2)) on -reach to reach."""
    edges = np.arange(-reach, reach + 2) - 0.5
    upper = norm.sf(edges, centre, stddev)  # of both tails the one that does not cancel
    lower = norm.cdf(edges, centre, stddev)
    return np.where(edges[:-1] > centre, upper[:-1] - upper[1:], lower[1:] - lower[:-1])


def _delta(one: Floats, other: Floats, budget: float) -> float:
    return float(np.maximum(one - math.exp(budget) * other, 0).sum())


def _gaussian_delta(move: float, stddev: float, budget: float) -> float:
    """Balle and Wang: Improving the Gaussian Mechanism for Differential Privacy. ICML 2018, theorem 8."""
    half, ratio = move / (2 * stddev), budget * stddev / move
    return float(norm.cdf(half - ratio) - math.exp(budget) * norm.cdf(-half - ratio))


def _excess(share: float, move: float, budget: float) -> float:
    """How far the delta of three rounded shares is above that of one Gaussian of their variance.

    Units are steps; the worst of some places between grid points, for each site.
    """
    reach = math.ceil(20 * share + move + 10)
    ideal = _gaussian_delta(move, share * math.sqrt(3), budget)
    worst = 0.0
    for places in [(0.0, 0.0), (0.5, 0.0), (0.3, 0.4), (0.5, 0.5)]:
        others = np.convolve(*(_share_pmf(place, share, reach) for place in places))
        for start in (0.0, 0.25, 0.5 - move / 2, 0.5):
            without = np.convolve(others, _share_pmf(start, share, reach))
            within = np.convolve(others, _share_pmf(start + move, share, reach))
            worst = max(worst, _delta(without, within, budget), _delta(within, without, budget))
    return worst - ideal


@pytest.mark.parametrize("budget", [0.1, 1.0, 3.0])
def test_rounded_shares_cost_no_more_than_one_gaussian(budget: float) -> None:
    """Exactly computed, at three steps a share, where the bound of the module is 2e-25; ours has 591."""
    assert _excess(3.0, 2.7, budget) < 1e-12


def test_a_coarse_grid_tells_more_and_is_seen() -> None:
    """The mutant: steps as wide as three shares, for which no rounding was accounted."""
    assert _excess(0.3, 0.27, 0.1) > 1e-3


def test_the_fineness_is_what_the_bound_assumes() -> None:
    assert room.FINENESS == FINENESS == 2**10
    for shares, contributors in [(100, 1000), (2, 3)]:
        exponent = 2 * math.pi**2 * FINENESS**2 / (shares * contributors)
        assert math.log10(4 * (contributors - 1)) - exponent / math.log(10) < -85


# -- What it costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "shares"),
    [(2.0, 1.0, 10, 2), pytest.param(1.1, 0.05, 200, 4, marks=pytest.mark.slow)],
)
def test_both_costs_are_those_of_an_independent_accountant(
    noise: float, rate: float, steps: int, shares: int
) -> None:
    """With the honest others, and alone."""
    events = [Event(noise, rate, steps, shares)]
    for found, stddev in ((events, noise), (alone(events), noise / math.sqrt(shares))):
        step = PoissonSampledDpEvent(rate, GaussianDpEvent(stddev))
        oracle = PLDAccountant().compose(ComposedDpEvent([SelfComposedDpEvent(step, steps)]))
        assert 0 <= epsilon(found, 1e-5) - oracle.get_epsilon(1e-5) <= 0.012


def test_what_a_site_noises_by_itself_costs_the_same_alone() -> None:
    events = (Event(1.0, 0.1, 5), Event(2.0, 0.3, 1))
    assert alone(events) == events


def test_fewer_than_one_share_is_no_event() -> None:
    with pytest.raises(PrivacyError, match="shares >= 1"):
        Event(1.0, 0.1, 5, 0)
