"""Gaussians against numbers computed elsewhere, and against integration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from models import gaussians
from models.gaussians import Gaussian, log_overlap, product, similarity, surprise
from models.masking import Seen


def gaussian(means: list[float], variances: list[float]) -> Gaussian:
    return Gaussian(torch.tensor([means]), torch.tensor([variances]).log())


def seen(*has: bool) -> dict[str, Seen]:
    return {str(n): Seen(torch.zeros(1, 1), torch.tensor([each]), each, each) for n, each in enumerate(has)}


def squared_distance(p: Gaussian, q: Gaussian) -> float:
    """The paper's, from the product over features."""
    return float(-torch.expm1(log_overlap(p, q).sum(1)))


A, B = gaussian([0.0, 0.0], [1.0, 1.0]), gaussian([1.0, 0.0], [1.0, 4.0])


def test_the_distance_is_as_computed_elsewhere() -> None:
    assert squared_distance(A, B) == pytest.approx(0.210671, abs=1e-6)
    assert 1 - math.sqrt(squared_distance(A, B)) == pytest.approx(0.541011, abs=1e-6)
    assert squared_distance(A, A) == pytest.approx(0, abs=1e-6)


def test_many_features_saturate_the_product_and_not_the_mean() -> None:
    """Half a deviation in each of 256."""
    p, q = gaussian([0.0] * 256, [1.0] * 256), gaussian([0.5] * 256, [1.0] * 256)
    assert squared_distance(p, q) == pytest.approx(0.9996645, abs=1e-6)
    # With equal deviations it is 1 - exp(-d^2 / 8 s^2).
    assert float(similarity(p, q)) == pytest.approx(1 - math.sqrt(1 - math.exp(-0.25 / 8)), abs=1e-5)


def test_the_overlap_by_integration() -> None:
    p, q = gaussian([0.3], [0.5]), gaussian([-0.4], [1.7])
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    densities = [Normal(float(g.mean), float(g.log_variance.exp().sqrt())).log_prob(x) for g in (p, q)]
    expected = torch.trapezoid(((densities[0] + densities[1]) / 2).exp(), x)
    assert float(log_overlap(p, q).exp()) == pytest.approx(float(expected), abs=1e-6)


values = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(lambda x: torch.tensor([x]))


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(first=values, second=values, spread=values, other=values)
def test_similarity_is_symmetric_and_within_bounds(
    first: Tensor, second: Tensor, spread: Tensor, other: Tensor
) -> None:
    p, q = Gaussian(first, spread), Gaussian(second, other)
    found = float(similarity(p, q))
    assert 0 <= found <= 1
    assert found == pytest.approx(float(similarity(q, p)), abs=1e-6)
    assert float(similarity(p, p)) == pytest.approx(1, abs=2e-3)


def test_a_product_is_as_computed_elsewhere() -> None:
    both = product({"0": gaussian([0.0], [1.0]), "1": gaussian([2.0], [4.0])}, seen(True, True), 1)
    assert float(both.mean) == pytest.approx(0.4)
    assert float(both.log_variance.exp()) == pytest.approx(0.8)


def test_a_product_of_one_is_that_one() -> None:
    """Whatever the absent one says."""
    parts = {"0": B, "1": gaussian([9.0, 9.0], [0.1, 0.1])}
    found = product(parts, seen(True, False), 2)
    torch.testing.assert_close(found.mean, B.mean)
    torch.testing.assert_close(found.log_variance, B.log_variance)


def test_a_product_of_none_is_the_standard_normal() -> None:
    found = product({}, seen(False, False), 2)
    assert torch.equal(found.mean, torch.zeros(1, 2))
    assert torch.equal(found.log_variance, torch.zeros(1, 2))


def test_surprise_is_the_divergence_from_a_standard_normal() -> None:
    expected = kl_divergence(Normal(B.mean, B.log_variance.exp().sqrt()), Normal(0.0, 1.0)).mean(1)
    torch.testing.assert_close(surprise(B), expected)


# -- Contrast ------------------------------------------------------------------------------------
def told(has: list[list[bool]], seed: int = 0) -> Tensor:
    """Random Gaussians of 3 features, packed; zeros where absent."""
    present = torch.tensor(has)
    said = torch.randn(*present.shape, 6, generator=torch.Generator().manual_seed(seed))
    return torch.cat([present[..., None].float(), torch.where(present[..., None], said, 0.0)], 2)


MIXED = [[True, True, False], [True, True, True], [False, True, True], [True, False, False]]


def contrast_by_hand(said: Tensor, temperature: float) -> list[float]:
    def one(case: int, m: int) -> Gaussian:
        return Gaussian(*said[case, m, 1:].chunk(2))

    found: list[float] = []
    for i in range(len(said)):
        held = [m for m in range(3) if said[i, m, 0]]
        losses: list[float] = []
        for m in held:
            for n in (each for each in held if each != m):
                among = [j for j in range(len(said)) if said[j, n, 0]]
                scores = [math.exp(float(similarity(one(i, m), one(j, n))) / temperature) for j in among]
                losses.append(-math.log(scores[among.index(i)] / sum(scores)))
        found.append(sum(losses) / len(losses) if losses else 0.0)
    return found


def check_contrast() -> None:
    said = told(MIXED)
    assert gaussians.contrast(said, 0.2).tolist() == pytest.approx(contrast_by_hand(said, 0.2), abs=1e-5)


def test_contrast_by_hand() -> None:
    check_contrast()


def test_a_contrast_against_who_lacks_the_modality_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent Gaussian is zeros, which would pass for a patient of its own."""
    honest = gaussians.contrast
    monkeypatch.setattr(
        gaussians, "contrast", lambda said, t: honest(said.index_fill(2, torch.tensor(0), 1.0), t)
    )
    with pytest.raises(AssertionError):
        check_contrast()


def test_contrast_has_gradients_where_somebody_lacks_everything() -> None:
    said = told([[True, True, False], [False, False, False]]).requires_grad_()
    gaussians.contrast(said, 0.1).sum().backward()
    assert said.grad is not None
    assert said.grad.isfinite().all()
