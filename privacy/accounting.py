"""What private training costs: from what happened to (epsilon, delta).

An `Event` says what happened: so many steps, each a Gaussian mechanism on a Poisson sample
of the patients. What a history of events costs is a question to an accountant:

    epsilon      Gopi, Lee, Wutschitz: Numerical Composition of Differential Privacy,
                 NeurIPS 2021, in Opacus' implementation (PRV). The headline, an upper bound.
    epsilon_pld  Doroshenko et al.: Connect the Dots, PETS 2022, in Google's dp-accounting
                 (PLD). Shares no code with the first, and stands beside it as its oracle.

The first is 0.007 to 0.0104 above the second wherever both were tried, because it adds its
own error bound of 0.008 (Opacus' default of 0.01 gave up to 0.0124). Events of one noise and
rate compose as one with their steps added, so that the price of asking does not grow with the
rounds.

Whose presence is hidden, and what "presence" means, is written beside every epsilon: `UNIT` and `ADJACENCY`
of `privacy.statement`.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import (  # pyright: ignore[reportMissingTypeStubs]
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    identity,
)
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant  # pyright: ignore[reportMissingTypeStubs]
from opacus.accountants.analysis import rdp  # pyright: ignore[reportMissingTypeStubs]
from opacus.accountants.analysis.prv import Domain  # pyright: ignore[reportMissingTypeStubs]
from scipy.fft import next_fast_len  # pyright: ignore[reportMissingTypeStubs]
from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs]

from protocol.errors import BudgetError, PrivacyError

_TICKS = 10_000
"""Noise multipliers are found to one of this many parts."""
_MOST_NOISE = 2.0**10
"""A thousand times a patient's influence: no gradient is left under it."""
_ERROR = 0.008
"""What the numerical composition may be off by; it is added, so the answer stays an upper bound."""
_WIDEST = 2**24
"""Points of a discretised privacy loss (128 MiB); wider ones belong to epsilons in the thousands."""


@dataclass(frozen=True)
class Event:
    """`steps` steps, each noising a Poisson sample of the patients.

    `noise_multiplier`  noise stddev / clip_norm of a step, >= 0
    `sampling_rate`     chance of each patient to be in a step, 0 to 1
    `steps`             >= 0
    `shares`            >= 1: the noise is the sum of at least so many equal ones, of which this site
                        drew one and honest other sites the rest (`privacy.split`)
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    shares: int = 1

    def __post_init__(self) -> None:
        """Refuse what an accountant would answer with nonsense."""
        right = 0 <= self.noise_multiplier < math.inf and 0 <= self.sampling_rate <= 1 and self.steps >= 0
        if not right or self.shares < 1:
            raise PrivacyError(f"{self}: noise must be >= 0 and finite, rate 0 to 1, steps >= 0, shares >= 1")


def alone(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return what `events` are against somebody who knows every other site's share of the noise."""
    return tuple(
        replace(event, noise_multiplier=event.noise_multiplier / math.sqrt(event.shares), shares=1)
        for event in events
    )


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Return an upper bound of what `events` cost together; `inf` where none can be computed."""
    return _prv(_coalesced(events), _checked(delta))


def epsilon_pld(events: Iterable[Event], delta: float) -> float:
    """Return the same by the independent accountant."""
    return _pld(_coalesced(events), _checked(delta))


ACCOUNTANTS: dict[str, Callable[[Iterable[Event], float], float]] = {"prv": epsilon, "pld": epsilon_pld}


def accountant(name: str) -> Callable[[Iterable[Event], float], float]:
    """Look an accountant up by name."""
    if name == "gdp":
        raise PrivacyError(
            "accountant 'gdp' understates: its central limit says 3.27 where the truth is 5.85; use 'prv'"
        )
    if name not in ACCOUNTANTS:
        raise PrivacyError(f"accountant {name!r} is not one of {', '.join(ACCOUNTANTS)}")
    return ACCOUNTANTS[name]


def calibrate(epsilon: float, delta: float, rate: float, steps: int, spent: Iterable[Event] = ()) -> float:
    """Return the least noise multiplier with which `steps` more steps cost at most `epsilon`.

    `spent` is what the same patients have paid already. The result is rounded up to 1e-4,
    and its cost has been computed: it never exceeds.

    Raises:
        BudgetError: if no noise is enough, because `spent` has used the budget up.
    """
    before, target = tuple(spent), float(epsilon)

    def cost(noise: float) -> float:
        return _prv(_coalesced([*before, Event(noise, rate, steps)]), _checked(delta))

    def excess(noise: float) -> float:
        return min(cost(noise), 1e9) - target

    if cost(0.0) <= target:  # no step that anybody takes part in
        return 0.0
    enough = 1.0 if _prv(_coalesced(before), delta) < target else math.inf
    while enough <= _MOST_NOISE and cost(enough) > target:
        enough *= 2
    if enough > _MOST_NOISE:
        raise BudgetError(f"no noise affords {steps} steps within epsilon {target:g}: raise privacy.epsilon")
    while cost(enough / 2) <= target:
        enough /= 2
    # The cost is smooth and falls in the noise: Brent's method needs a third of bisection's evaluations.
    root = cast("float", brentq(excess, enough / 2, enough, xtol=0.5 / _TICKS))
    ticks = math.ceil(root * _TICKS)
    while cost(ticks / _TICKS) > target:
        ticks += 1
    return ticks / _TICKS


def _coalesced(events: Iterable[Event]) -> tuple[Event, ...]:
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        if event.steps and event.sampling_rate:
            steps[event.noise_multiplier, event.sampling_rate] += event.steps
    return tuple(Event(noise, rate, n) for (noise, rate), n in sorted(steps.items()))


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta}: must lie between 0 and 1, and well below 1 / patients")
    return delta


class _TooWideError(Exception):
    pass


class _Accountant(PRVAccountant):
    """Opacus' accountant, stopped before it allocates gigabytes for a hopeless history.

    Opacus finds how wide its sum must be from Rényi's bound, which takes most of an answer's time and
    is computed twice for each event. Here it is computed once and kept, and the width is rounded up to
    a length that a Fourier transform is quick at.
    """

    def _get_domain(
        self, prvs: Any, num_self_compositions: Any, eps_error: float, delta_error: float
    ) -> Domain:
        steps = sum(num_self_compositions)
        curves = [_renyi(prv.noise_multiplier, prv.sample_rate) for prv in prvs]
        composed = sum(curve * n for curve, n in zip(curves, num_self_compositions, strict=True))
        bounds = [_renyi_epsilon(curve, delta_error / (8 * steps)) for curve in curves]
        widest = max(_renyi_epsilon(composed, delta_error / 4), *bounds, eps_error) + 3
        mesh = eps_error / math.sqrt(steps * math.log(12 / delta_error) / 2)
        # Opacus' composition counts on a 0 in the middle: half the points, less one, stand left of it.
        half = math.ceil(widest / mesh) + 1
        if 2 * half > _WIDEST:
            raise _TooWideError
        half = cast("int", next_fast_len(half, real=True))
        reach = (half - 1.5) * mesh  # aligned outwards, to `half - 1`
        return Domain.create_aligned(-reach, reach, mesh)


@lru_cache(maxsize=256)
def _renyi(noise: float, rate: float) -> NDArray[np.float64]:
    orders = RDPAccountant.DEFAULT_ALPHAS
    return np.asarray(rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders))


def _renyi_epsilon(curve: Any, delta: float) -> float:
    return float(rdp.get_privacy_spent(orders=RDPAccountant.DEFAULT_ALPHAS, rdp=curve, delta=delta)[0])


@lru_cache(maxsize=1024)
def _prv(events: tuple[Event, ...], delta: float) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    accountant = _Accountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, e.steps) for e in events]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning, "opacus")
        try:
            # A delta near 1 buys everything: below 0 the number has no meaning.
            return max(0.0, float(accountant.get_epsilon(delta, eps_error=_ERROR)))
        except _TooWideError:
            return math.inf


@lru_cache(maxsize=1024)
def _pld(events: tuple[Event, ...], delta: float) -> float:
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    return float(_composed(events).get_epsilon_for_delta(delta))


@lru_cache(maxsize=1)
def _composed(events: tuple[Event, ...]) -> PrivacyLossDistribution:
    # The same for every delta, and as large as it is dear: only the last is kept.
    total = identity()
    for event in events:
        step = _one_step(event.noise_multiplier, event.sampling_rate)
        total = total.compose(step.self_compose(event.steps))
    return total


@lru_cache(maxsize=64)
def _one_step(noise: float, rate: float) -> PrivacyLossDistribution:
    # Most of an answer's time, and the same in every round.
    return from_gaussian_mechanism(noise, sampling_prob=rate)
