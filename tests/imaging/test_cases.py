"""From scans to cases and back: what is where in one is there in the other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imaging import cases
from imaging.cases import from_cases, looked_at, resampled_shape, to_cases
from imaging.transforms import fitted, unfitted

side = st.integers(1, 9)


@given(st.tuples(side, side), st.tuples(side, side))
def test_what_was_fitted_comes_back_where_it_was(have: tuple[int, int], want: tuple[int, int]) -> None:
    """All that was not cut away, for every mixture of odd and even."""
    images = torch.arange(1.0, 1 + have[0] * have[1]).view(1, 1, *have)
    back = unfitted(fitted(images, want), have)
    kept = back != 0
    assert torch.equal(back[kept], images[kept])
    assert int(kept.sum()) == min(have[0], want[0]) * min(have[1], want[1])


def test_fitting_twice_is_not_the_way_back() -> None:
    """The mutant: for an odd difference it ends one voxel off."""
    images = torch.arange(1.0, 6.0).view(1, 1, 1, 5)
    assert not torch.equal(fitted(fitted(images, (1, 8)), (1, 5)), images)
    assert torch.equal(unfitted(fitted(images, (1, 8)), (1, 5)), images)


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (8, 8, 8), (12, 7, 3)])
def test_a_mark_in_a_case_lies_where_it_was_in_the_scan(size: tuple[int, ...]) -> None:
    scan = torch.rand(9, 10, 6, generator=torch.Generator().manual_seed(0)) + 1
    scan[5, 4, 2] = 50
    values, there = to_cases(scan, (9, 10, 6), size)
    assert there.all()
    back = from_cases(values, (9, 10, 6), (9, 10, 6))[0]
    assert [int(i) for i in (back == back.max()).nonzero()[0]] == [5, 4, 2]


def test_a_resampled_box_comes_back_within_half_a_voxel() -> None:
    scan = torch.zeros(16, 16, 8)
    scan[4:12, 2:8, 2:6] = 1
    shape = resampled_shape((16, 16, 8), (1.0, 1.0, 1.0), (2.0, 2.0, 1.0))
    values, _ = to_cases(scan, shape, (10, 10))
    back = from_cases((values > -0.5).float(), shape, (16, 16, 8))[0] > 0.5
    assert torch.equal(back, scan > 0)


def test_a_black_slice_is_not_there_and_was_not_looked_at() -> None:
    scan = torch.rand(4, 4, 3) + 1
    scan[:, :, 1] = 0
    _, there = to_cases(scan, (4, 4, 3), (2, 4))
    assert there.tolist() == [True, False, True]
    looked = looked_at((4, 4, 3), (2, 4), (4, 4, 3), there)
    assert looked[1:3, :, 0].all()
    assert not looked[0].any()
    assert not looked[:, :, 1].any()
    assert cases.cut(scan[None, None], (2, 4)).shape == (3, 1, 4, 4)
