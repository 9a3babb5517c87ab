"""Absence through one door, and absence on purpose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.fusion import masked_mean
from models.masking import Seen, dirichlet_kept, modality_dropout, uniforms, visible
from protocol.batch import Batch

presences = st.integers(1, 5).flatmap(
    lambda m: st.lists(st.lists(st.booleans(), min_size=m, max_size=m), min_size=1, max_size=12)
)
rates = st.floats(0, 0.999)
seeds = st.integers(0, 2**32 - 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(presences, rates, seeds)
def test_dropout_never_adds_and_never_empties(present: list[list[bool]], rate: float, seed: int) -> None:
    before = torch.tensor(present)
    after = modality_dropout(before, rate, seeded(seed))
    assert not (after & ~before).any()
    assert torch.equal(after.any(1), before.any(1))


@given(presences, seeds)
def test_dropout_of_rate_zero_changes_nothing(present: list[list[bool]], seed: int) -> None:
    assert torch.equal(modality_dropout(torch.tensor(present), 0.0, seeded(seed)), torch.tensor(present))


@given(presences, rates, seeds)
def test_dropout_repeats_from_its_seed(present: list[list[bool]], rate: float, seed: int) -> None:
    first, again = (modality_dropout(torch.tensor(present), rate, seeded(seed)) for _ in range(2))
    assert torch.equal(first, again)


def hidden_share(dropout: object, present: list[bool], rate: float) -> Tensor:
    before = torch.tensor([present]).expand(60_000, -1)
    return 1 - dropout(before, rate, seeded(5)).float().mean(0)


def rate_error(dropout: object) -> float:
    """Largest distance from `rate - rate**n / n`, in standard errors (0.002 at most)."""
    errors = []
    for n, rate in [(1, 0.5), (2, 0.3), (3, 0.8), (4, 0.5)]:
        share = hidden_share(dropout, [True] * n + [False], rate)[:n]
        errors.append(float((share - (rate - rate**n / n)).abs().max()))
    return max(errors) / 0.002


def test_dropout_hides_each_modality_at_its_rate() -> None:
    assert rate_error(modality_dropout) < 4


def test_the_rate_is_measured_well_enough_to_catch_a_mutant() -> None:
    """A row that would be empty is put back whole, as is often done."""

    def put_back(present: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        kept = present & (torch.rand(present.shape, generator=generator) >= rate)
        return torch.where(kept.any(1, keepdim=True), kept, present)

    assert rate_error(put_back) > 20


def batch(present: Tensor) -> Batch:
    return Batch({"a": torch.full((2, 1, 3), torch.nan), "b": torch.ones(2, 4)}, present, {}, {})


def test_only_zeros_are_seen_where_a_modality_is_absent() -> None:
    seen = visible(batch(torch.tensor([[False, True], [False, False]])), ("a", "b"))
    assert torch.equal(seen["a"].x, torch.zeros(2, 1, 3))
    assert torch.equal(seen["b"].x, torch.tensor([[1.0], [0.0]]).expand(2, 4))
    assert (seen["a"].anybody, seen["b"].anybody, seen["b"].everybody) == (False, True, False)


def test_what_everybody_has_is_not_copied() -> None:
    whole = batch(torch.ones(2, 2, dtype=torch.bool))
    seen = visible(whole, ("a", "b"))
    assert all(seen[name].x is whole.inputs[name] for name in ("a", "b"))


@given(presences, seeds)
def test_the_masked_mean_is_the_mean_of_what_is_there(present: list[list[bool]], seed: int) -> None:
    has = torch.tensor(present)
    features = {str(m): torch.randn(len(has), 3, generator=seeded(seed + m)) for m in range(has.shape[1])}
    seen = {
        n: Seen(x, h, bool(h.any()), bool(h.all())) for (n, x), h in zip(features.items(), has.T, strict=True)
    }
    mean = masked_mean(features, seen, (len(has), 3))
    for row, pattern in enumerate(present):
        there = [features[str(m)][row] for m, held in enumerate(pattern) if held]
        expected = torch.stack(there).mean(0) if there else torch.zeros(3)
        torch.testing.assert_close(mean[row], expected)


def test_the_masked_mean_of_nothing_is_zeros() -> None:
    seen = {"a": Seen(torch.ones(2, 3), torch.zeros(2).bool(), anybody=False, everybody=False)}
    assert torch.equal(masked_mean({}, seen, (2, 5)), torch.zeros(2, 5))


# -- What a pretext hides ------------------------------------------------------------------------


def test_a_case_s_chance_is_its_own() -> None:
    draws = torch.tensor([5, 7, 5])
    found = uniforms(draws, 2, 3)

    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(uniforms(draws[1:2], 2, 3)[0], found[1])
    assert uniforms(draws[:0], 2, 3).shape == (0, 2, 3)
    assert float(uniforms(torch.arange(500), 40).mean()) == pytest.approx(0.5, abs=0.01)


def kept_of(present: list[list[bool]], share: float, places: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    has, numbers = (
        torch.tensor(present),
        torch.rand(len(present), len(present[0]), places + 1, generator=seeded(seed)),
    )
    return dirichlet_kept(has, share, numbers[..., 0], numbers[..., 1:]), has, numbers


@given(presences, st.floats(0.05, 0.95), st.integers(1, 20), seeds)
def test_the_budget_is_met_exactly_and_only_by_what_is_there(
    present: list[list[bool]], share: float, places: int, seed: int
) -> None:
    """Also where a modality would get more than it has: the rest goes to the others."""
    kept, has, _ = kept_of(present, share, places, seed)

    assert not (kept & ~has[..., None]).any()
    assert kept.sum((1, 2)).tolist() == [int(share * places * count) for count in has.sum(1).tolist()]


def test_the_budget_of_bm_mae_at_its_paper_s_size() -> None:
    """512 of 2048 tokens in four volumes, as many as one volume has."""
    kept, _, _ = kept_of([[True] * 4] * 3, 0.25, 512, 0)
    assert kept.sum((1, 2)).tolist() == [512] * 3


def by_webster(proportions: list[float], places: int, total: int) -> list[int]:
    """One seat at a time to whom it is most due, as long as there are places."""
    seats = [0] * len(proportions)
    for _ in range(total):
        due = [p / (s + 0.5) if s < places else -1.0 for p, s in zip(proportions, seats, strict=True)]
        seats[due.index(max(due))] += 1
    return seats


@given(seeds, st.integers(1, 12))
def test_what_is_kept_of_each_follows_the_proportions(seed: int, places: int) -> None:
    kept, _, numbers = kept_of([[True] * 4], 0.4, places, seed)
    exponentials = -torch.log1p(-numbers[0, :, 0])
    assert kept[0].sum(1).tolist() == by_webster(exponentials.tolist(), places, int(0.4 * places * 4))


def test_proportions_are_dirichlet() -> None:
    """Uniform on the simplex: a share of one of three is above x with chance (1 - x)^2."""
    kept, _, _ = kept_of([[True] * 3] * 4000, 0.25, 100, 3)
    share = kept[:, 0].sum(1) / 75
    for x in (0.1, 0.3, 0.5):
        assert float((share > x).float().mean()) == pytest.approx((1 - x) ** 2, abs=0.03)


def test_every_place_has_the_same_chance() -> None:
    kept, _, _ = kept_of([[True] * 3] * 4000, 0.25, 8, 4)
    assert kept.float().mean((0, 1)).tolist() == pytest.approx([0.25] * 8, abs=0.02)
