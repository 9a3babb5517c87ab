"""Statistics of a cohort: right where noise is small, and no patient moves them further than is paid for."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privacy import statistics
from privacy.accounting import Event
from privacy.noise import SecureGenerator
from privacy.statistics import Moments, histogram, moments, price, quantiles
from protocol.errors import PrivacyError

EDGES = (-2.0, -1.0, 0.0, 0.5, 3.0)
LOW, HIGH = (-2.0, 0.0), (2.0, 10.0)
few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)

Release = Callable[[Tensor, Tensor], Tensor]
"""Values `(N, 2)` and their patients -> what is released without noise, in units of the noise's scale."""


def the_histogram(values: Tensor, patient: Tensor) -> Tensor:
    return histogram(values[:, 0], patient, EDGES, 0.0, SecureGenerator())


def the_moments(values: Tensor, patient: Tensor) -> Tensor:
    found = moments(values, patient, LOW, HIGH, 0.0, SecureGenerator())
    return torch.cat([found.count[None], found.first, found.second]) / math.sqrt(5)


def influence(release: Release, values: Tensor, patient: Tensor) -> float:
    """How far the release moves, at most, when one patient goes with all its cases."""
    whole = release(values, patient)
    return max(
        float((whole - release(values[patient != gone], patient[patient != gone])).norm())
        for gone in patient.unique()
    )


@pytest.mark.parametrize("release", [the_histogram, the_moments])
@few
@given(
    cases=st.lists(st.tuples(st.integers(0, 4), numbers, numbers), min_size=1, max_size=12),
)
def test_no_patient_moves_a_release_further_than_one(
    release: Release, cases: list[tuple[int, float, float]]
) -> None:
    values = torch.tensor([[x, y] for _, x, y in cases])
    assert influence(release, values, torch.tensor([p for p, _, _ in cases])) <= 1 + 1e-9


@pytest.mark.parametrize("release", [the_histogram, the_moments])
def test_a_patient_can_move_a_release_by_one(release: Release) -> None:
    """The bound is reached, so noise is not spent on what cannot happen."""
    values, patient = torch.tensor([[2.0, 10.0], [0.0, 5.0]]), torch.tensor([0, 1])
    assert influence(release, values, patient) == pytest.approx(1.0)


@pytest.mark.parametrize("release", [the_histogram, the_moments])
def test_counting_cases_instead_of_patients_is_caught(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: a patient of four cases counts four times."""
    monkeypatch.setattr(statistics, "_one_each", lambda rows, patient: rows.double())
    assert influence(release, torch.full((4, 2), 9.0), torch.zeros(4, dtype=torch.long)) > 3.5


def test_values_beyond_their_bounds_are_caught() -> None:
    """A mutant: bounds that the data choose bound nothing."""

    def chosen_by_the_data(values: Tensor, patient: Tensor) -> Tensor:
        found = moments(values, patient, (-2.0,), (float(values.max()),), 0.0, SecureGenerator())
        return found.mean() * len(values) / 2

    values = torch.tensor([[0.5], [0.6], [400.0]])
    assert influence(chosen_by_the_data, values, torch.arange(3)) > 100


# -- Against numpy ---------------------------------------------------------------------------
def cohort(patients: int = 20_000) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    values = np.stack([rng.normal(0.3, 0.5, patients), rng.gamma(4.0, 1.0, patients)], 1)
    return torch.from_numpy(values), torch.arange(patients)


def test_with_many_patients_moments_are_those_of_numpy() -> None:
    values, patient = cohort()
    found = moments(values, patient, LOW, HIGH, 5.0, SecureGenerator())
    clipped = np.clip(values.numpy(), LOW, HIGH)
    assert float(found.count) == pytest.approx(len(values), rel=0.01)
    np.testing.assert_allclose(found.mean().numpy(), clipped.mean(0), atol=0.03)
    np.testing.assert_allclose(found.variance().numpy(), clipped.var(0), rtol=0.05)


def test_without_noise_moments_are_exactly_numpys() -> None:
    values, patient = cohort(50)
    found = moments(values, patient, LOW, HIGH, 0.0, SecureGenerator())
    clipped = np.clip(values.numpy(), LOW, HIGH)
    np.testing.assert_allclose(found.mean().numpy(), clipped.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance().numpy(), clipped.var(0), rtol=1e-9)


def test_with_many_patients_the_histogram_and_its_quantiles_are_those_of_numpy() -> None:
    values, patient = cohort()
    edges = np.linspace(-3, 3, 121)
    counts = histogram(values[:, 0], patient, edges.tolist(), 2.0, SecureGenerator())
    expected = np.histogram(np.clip(values[:, 0].numpy(), -3, 3), edges)[0]
    assert abs(counts.numpy() - expected).max() < 2.0 * 6
    found = quantiles(counts, edges.tolist(), (0.05, 0.5, 0.95))
    np.testing.assert_allclose(found, np.quantile(values[:, 0].numpy(), (0.05, 0.5, 0.95)), atol=0.03)


def test_edges_belong_to_the_bin_above_them_and_far_values_to_the_last() -> None:
    values = torch.tensor([-9.0, -2.0, -1.0, 0.49, 0.5, 3.0, 99.0, math.nan, math.inf])
    counts = histogram(values, torch.arange(9), EDGES, 0.0, SecureGenerator())
    assert counts.tolist() == [2.0, 1.0, 1.0, 4.0]


def test_sites_add_up() -> None:
    values, patient = cohort(60)
    whole = moments(values, patient, LOW, HIGH, 0.0, SecureGenerator())
    parts = [moments(values[i::3], patient[i::3], LOW, HIGH, 0.0, SecureGenerator()) for i in range(3)]
    pooled = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(pooled.mean(), whole.mean())
    torch.testing.assert_close(pooled.variance(), whole.variance())
    other = moments(values, patient, LOW, (2.0, 11.0), 0.0, SecureGenerator())
    with pytest.raises(PrivacyError, match="different bounds"):
        _ = whole + other


# -- Noise and its price ------------------------------------------------------------------------
def noises(release: Callable[[], Tensor]) -> Tensor:
    return torch.stack([release() for _ in range(2000)]).double()


def test_noise_has_the_scale_that_is_paid_for() -> None:
    nobody, none = torch.empty(0, 2), torch.empty(0, dtype=torch.long)

    def one() -> Tensor:
        found = moments(nobody, none, LOW, HIGH, 3.0, SecureGenerator())
        return torch.cat([found.count[None], found.first, found.second]) / math.sqrt(5)

    binned = noises(lambda: histogram(nobody[:, 0], none, EDGES, 3.0, SecureGenerator()))
    for draws in (binned, noises(one)):
        assert float(draws.std()) == pytest.approx(3.0, rel=0.05)
    assert price(3.0) == Event(3.0, 1.0, 1)


@few
@given(
    counts=st.lists(st.floats(-50, 500), min_size=4, max_size=4),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_quantiles_of_any_noised_counts_are_in_range_and_in_order(
    counts: list[float], shares: list[float]
) -> None:
    found = quantiles(torch.tensor(counts, dtype=torch.float64), EDGES, sorted(shares))
    assert bool(((found >= EDGES[0]) & (found <= EDGES[-1])).all())
    assert bool((found.diff() >= -1e-9).all())


def test_noise_that_swallows_everybody_leaves_numbers_in_range() -> None:
    drowned = Moments(
        *(torch.tensor([v], dtype=torch.float64) for v in (0.0, 4.0)),
        *map(torch.tensor, (-3.0, [9.0], [-5.0])),
    )
    assert (drowned.mean().item(), drowned.variance().item()) == (4.0, 0.0)
    assert quantiles(torch.zeros(4), EDGES, (0.5,)).item() == 0.5


@pytest.mark.parametrize(("low", "high"), [((0.0,), (1.0,)), ((0.0, 1.0), (1.0, 1.0)), ((0.0, 0.0), (1.0,))])
def test_bounds_that_bound_nothing_are_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(PrivacyError, match="a low < high for each of 2 columns"):
        moments(torch.zeros(3, 2), torch.arange(3), low, high, 1.0, SecureGenerator())


@pytest.mark.parametrize("edges", [(), (1.0,), (0.0, 0.0), (1.0, 0.0)])
def test_edges_that_are_no_bins_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(PrivacyError, match="ascending"):
        histogram(torch.zeros(3), torch.arange(3), edges, 1.0, SecureGenerator())
