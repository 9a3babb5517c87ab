"""Integers for floats: sums never overflow, means are within the stated bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.fixed import Floats, Grid
from privacy.secagg.masks import MODULUS
from protocol.errors import PrivacyError

GRIDS = st.builds(Grid, st.floats(1e-3, 1e3), st.integers(1, 10**6), st.integers(3, 2000))


@given(st.data(), GRIDS)
def test_the_mean_is_within_the_stated_bound(data: st.DataObject, grid: Grid) -> None:
    number = data.draw(st.integers(1, min(grid.sites, 6)))
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, grid.cases, number, endpoint=True)
    values = rng.uniform(-grid.clip_value, grid.clip_value, (number, 40)).astype(np.float32)
    values = np.clip(values, np.float32(-grid.clip_value), np.float32(grid.clip_value))
    wanted = (values.astype(float) * counts[:, None]).sum(0) / counts.sum()
    words = sum(
        grid.encode(row.copy(), int(n))[0].astype(object) for row, n in zip(values, counts, strict=True)
    )
    total = np.array([value % MODULUS for value in words], np.uint32)
    mean = grid.decode(total, int(counts.sum()), number)
    # Half a step a site, and the rounding of the answer itself to float32.
    bound = (
        number / 2 * grid.step(int(counts.sum())) * (1 + 1e-9)
        + np.abs(wanted) * 2**-23
        + grid.clip_value * 2**-23
    )
    assert (np.abs(mean - wanted) <= bound).all()


@given(GRIDS, st.booleans())
def test_the_largest_sum_does_not_overflow(grid: Grid, negative: bool) -> None:  # noqa: FBT001
    largest = np.full(3, -1e30 if negative else 1e30, np.float32)
    words, clipped = grid.encode(largest, grid.cases)
    one = int(words.view(np.int32)[0])
    assert clipped == 3
    assert abs(one) <= grid.levels
    assert abs(one) * grid.sites < MODULUS // 2


def test_the_mutant_that_scales_in_float32_overflows() -> None:
    """Why `encode` computes in float64: rounded to float32 the bound lies above `levels`."""
    grid = Grid(1.0, 100, 3)
    assert int(np.float32(grid.levels)) * grid.sites > MODULUS // 2 - 1
    words, _ = grid.encode(np.ones(1, np.float32), 100)
    assert int(words.view(np.int32)[0]) * grid.sites <= MODULUS // 2 - 1


def test_encoding_and_decoding_stay_in_the_same_memory() -> None:
    grid, values = Grid(1.0, 100, 3), np.linspace(-1, 1, 5, dtype=np.float32)
    words, clipped = grid.encode(values, 50)
    assert clipped == 0
    assert np.shares_memory(words, values)
    mean = grid.decode(words, 50, 1)
    assert np.shares_memory(mean, words)
    np.testing.assert_allclose(mean, [-1, -0.5, 0, 0.5, 1], atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_sum_would_show_is_refused_at_the_site(bad: float) -> None:
    values: Floats = np.zeros(70_000, np.float32)
    values[66_000] = bad
    with pytest.raises(PrivacyError, match="NaN or Inf"):
        Grid(1.0, 100, 3).encode(values, 5)


@pytest.mark.parametrize("count", [0, -1, 101])
def test_a_count_beyond_the_recipe_is_refused(count: int) -> None:
    with pytest.raises(PrivacyError, match=r"not in 1 to 100: raise secure\.cases"):
        Grid(1.0, 100, 3).encode(np.zeros(3, np.float32), count)


@pytest.mark.parametrize("count", [0, 2, 301, 2**31])
def test_a_sum_of_counts_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(PrivacyError, match="cannot be"):
        Grid(1.0, 100, 3).decode(np.zeros(3, np.uint32), count, 3)
