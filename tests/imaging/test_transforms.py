"""One grid, one scale."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imaging.transforms import MOST, fitted, normalised, quartiles, resized, resized_mask


@given(st.floats(0.01, 1e4), st.floats(-1e3, 1e3), st.integers(0, 1000))
def test_normalised_forgets_gain_and_offset(gain: float, offset: float, seed: int) -> None:
    """A scanner's unit makes no difference."""
    image = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    torch.testing.assert_close(normalised(image * gain + offset), normalised(image), rtol=1e-6, atol=1e-6)


def test_normalised_foreground_is_centred() -> None:
    """The foreground's median is 0 and its interquartile range that of a standard normal."""
    generator = torch.Generator().manual_seed(0)
    tissue = 100 + 10 * torch.randn(40000, generator=generator)

    low, middle, high = quartiles(normalised(torch.cat([torch.zeros(20000), tissue]))[20000:])

    assert (low, middle, high) == pytest.approx((-0.674, 0.0, 0.674), abs=0.02)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_normalised_flat_image(value: float) -> None:
    """An image of one value has nothing to show."""
    assert normalised(torch.full((1, 4, 4), value)).eq(0).all()


def test_normalised_bounds_a_hot_pixel() -> None:
    """One pixel a million times too bright neither exceeds the bound nor moves the rest."""
    image = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    image[0, 0, 0] = 2.0
    hot = image.clone()
    hot[0, 0, 0] = 4.0

    assert normalised(image * 100).abs().max() <= MOST
    torch.testing.assert_close(normalised(hot)[0, 1:], normalised(image)[0, 1:], atol=0.1, rtol=0.1)


def test_normalised_two_tones() -> None:
    """A mask-like scan has no spread within its foreground, and stays finite."""
    image = torch.zeros(1, 8, 8)
    image[0, 2:4] = 1.0

    assert normalised(image).isfinite().all()
    assert normalised(image).unique().numel() == 2


def test_resized_keeps_the_mean() -> None:
    """Averaging over areas loses no signal when the grid divides."""
    image = torch.rand(2, 3, 32, 32)

    torch.testing.assert_close(resized(image, 8).mean((2, 3)), image.mean((2, 3)))


def test_resized_mask_is_the_majority() -> None:
    """A pixel covered by more than half is in the mask, one covered by half is not."""
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, :2, :2] = torch.tensor([[1, 1], [1, 0]])
    mask[0, 0, 2:, 2:] = torch.tensor([[1, 1], [0, 0]])

    assert resized_mask(mask, 2).flatten().tolist() == [1, 0, 0, 0]


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_fitted_keeps_the_centre(have: tuple[int, int], want: tuple[int, int]) -> None:
    """Of the wanted size, the middle pixel in the middle, `fill` where there was nothing."""
    image = torch.rand(1, 1, *have) + 1

    found = fitted(image, want, -1.0)

    assert found.shape[2:] == want
    assert found[found > 0].numel() == min(have[0], want[0]) * min(have[1], want[1])


def test_fitted_cuts_and_pads_evenly() -> None:
    """Three pixels to five and to one: the middle one stays in the middle."""
    image = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1)

    assert fitted(image, (5, 1), -1.0).flatten().tolist() == [-1, 1, 2, 3, -1]
    assert fitted(image, (1, 1)).flatten().tolist() == [2]
