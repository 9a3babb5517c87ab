"""Noise and sampling: the right distribution, and nobody's to repeat."""

import os

import pytest
import torch
from scipy import stats
from torch import Tensor

from privacy.noise import SecureGenerator


def looks_gaussian(draws: Tensor, std: float) -> bool:
    """Whether a million draws have the stddev within 2 %, and the shape."""
    draws = draws.double().flatten() / std
    return (
        abs(float(draws.mean())) < 0.005
        and abs(float(draws.std()) - 1) < 0.02
        and abs(float(stats.kurtosis(draws.numpy()))) < 0.03
        and stats.kstest(draws[:50_000].numpy(), "norm").pvalue > 1e-4
    )


def test_noise_is_gaussian() -> None:
    assert looks_gaussian(SecureGenerator().normal_(torch.empty(1000, 1000), 3.0), 3.0)


@pytest.mark.parametrize(
    "mutant", [lambda x: x * 0.5, lambda x: x.clamp(-2, 2), lambda x: x + 0.05, lambda x: x.sign()]
)
def test_other_noise_is_caught(mutant) -> None:  # noqa: ANN001
    assert not looks_gaussian(mutant(SecureGenerator().normal_(torch.empty(1000, 1000), 1.0)), 1.0)


def test_neighbours_in_the_stream_are_independent() -> None:
    draws = SecureGenerator().normal_(torch.empty(1 << 18, dtype=torch.float64), 1.0)
    for lag in (1, 2, 1 << 14, 1 << 15):
        assert abs(float((draws[:-lag] * draws[lag:]).mean())) < 0.02


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), ((1 << 15) + 1,)])
def test_any_shape_is_filled(shape: tuple[int, ...]) -> None:
    filled = SecureGenerator().normal_(torch.full(shape, torch.nan), 1.0)
    assert filled.shape == shape
    assert filled.isfinite().all()


def test_a_view_is_filled_in_place_and_nothing_beside_it() -> None:
    whole = torch.zeros(40, 50)
    view = whole[:, ::2].T
    assert SecureGenerator().normal_(view, 1.0) is view
    assert (whole[:, ::2] != 0).all()
    assert (whole[:, 1::2] == 0).all()


def test_the_zero_stddev_is_no_noise() -> None:
    assert (SecureGenerator().normal_(torch.ones(9), 0.0) == 0).all()


def test_no_seed_repeats_the_noise() -> None:
    def draw() -> Tensor:
        torch.manual_seed(7)
        return SecureGenerator().normal_(torch.empty(8), 1.0)

    assert not (draw() == draw()).any()


def test_a_forked_child_does_not_go_on_with_its_parents_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = SecureGenerator()
    parent.uniform(1)
    before = parent._cipher
    parent.uniform(1)
    assert parent._cipher is before
    monkeypatch.setattr(os, "getpid", lambda: -1)
    parent.uniform(1)
    assert parent._cipher is not before


def test_uniforms_fill_the_unit_interval() -> None:
    draws = SecureGenerator().uniform(100_000)
    assert 0 <= float(draws.min()) < 0.001
    assert 0.999 < float(draws.max()) < 1
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-4
    assert len(SecureGenerator().uniform(0)) == 0


def test_integers_are_uniform_even_where_a_remainder_would_favour_the_small() -> None:
    generator = SecureGenerator()
    counts = torch.bincount(generator.randint(7, 70_000), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    # 2^63 mod this is 2^61: a plain remainder would draw from the first third half as often again.
    high = 3 << 61
    assert float((generator.randint(high, 20_000) < high // 3).double().mean()) == pytest.approx(
        1 / 3, abs=0.02
    )
    assert generator.randint(1, 3).tolist() == [0, 0, 0]
    assert len(generator.randint(5, 0)) == 0


def test_poisson_takes_each_by_its_own_coin() -> None:
    generator = SecureGenerator()
    sizes = torch.tensor([len(generator.poisson_sample(200, 0.1)) for _ in range(3000)]).double()
    assert float(sizes.mean()) == pytest.approx(20, abs=0.4)
    assert float(sizes.var()) == pytest.approx(18, abs=2)
    drawn = generator.poisson_sample(50, 0.5)
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == sorted(set(drawn.tolist()))


def test_poisson_knows_nobody_and_everybody() -> None:
    generator = SecureGenerator()
    assert generator.poisson_sample(5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert generator.poisson_sample(5, 0.0).tolist() == []
    assert generator.poisson_sample(0, 0.5).tolist() == []
