"""Volumes, and those whose slices were scanned by a tilted gantry."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.nifti1 import load

from imaging.volume import Affine, Volume, canonical, straightened

RAMP = np.array([2.0, -3.0, 5.0])
"""How a value grows with each mm to the right, front and top."""


def ramp(affine: Affine, shape: tuple[int, int, int]) -> np.ndarray:
    """What a scan of the ramp holds: linear interpolation leaves it as it is."""
    return (apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)) @ RAMP).astype(np.float32)


def tilted(x: float, y: float) -> Affine:
    """Slices 4 mm apart, each shifted by so many mm against the one before."""
    return np.array([[1.0, 0, x, 10], [0, 0.5, y, -20], [0, 0, 4, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize(("x", "y"), [(0, 1.1), (0, -1.1), (0.7, 0), (-0.7, 1.3)])
def test_a_straightened_volume_holds_what_was_there(x: float, y: float) -> None:
    """At every voxel that the slices cover; the rest is the lowest value."""
    volume = Volume(ramp(tilted(x, y), (12, 20, 7)), tilted(x, y))

    straight = straightened(volume)

    across, down, step = straight.affine[:3, :3].T
    assert abs(step @ across) + abs(step @ down) < 1e-9
    expected = ramp(straight.affine, straight.values.shape)
    seen = np.abs(straight.values - expected) < 1e-3
    assert seen.sum() >= 11 * 19 * 7  # of 12 x 20, the last row and column lie half outside
    # What is not as expected is outside of the slice, or at its edge.
    inside = apply_affine(
        np.linalg.inv(volume.affine) @ straight.affine, np.moveaxis(np.indices(seen.shape), 0, -1)
    )
    margin = np.array([0, 0, -0.5]), np.array([11, 19, 6.5])
    assert seen[((inside > margin[0] + 1e-9) & (inside < margin[1] - 1e-9)).all(-1)].all()


def test_without_straightening_the_ramp_would_be_elsewhere() -> None:
    """The mutant that only squares the affine."""
    volume = Volume(ramp(tilted(0, 1.1), (12, 20, 7)), tilted(0, 1.1))

    assert np.abs(volume.values - ramp(tilted(0, 0), (12, 20, 7))).max() > 10


@pytest.mark.parametrize("slices", [1, 7])
def test_a_straight_volume_is_returned_as_it_is(slices: int) -> None:
    volume = Volume(ramp(tilted(0, 0.001), (4, 5, slices)), tilted(0, 0.001))

    assert straightened(volume) is volume


def test_a_volume_is_saved_with_its_place(tmp_path: Path) -> None:
    volume = Volume(ramp(tilted(0, 1), (4, 5, 3)), tilted(0, 1))

    volume.save(tmp_path / "x.nii.gz")

    saved = load(tmp_path / "x.nii.gz")
    assert np.array_equal(np.asarray(saved.dataobj), volume.values)
    assert np.abs(saved.affine - volume.affine).max() < 1e-5
    assert volume.spacing_mm == pytest.approx((1, 0.5, 17**0.5))


@settings(max_examples=25)
@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3), st.floats(-40, 40))
def test_turned_axes_hold_the_same_values_in_the_same_places(
    order: list[int], signs: tuple[int, ...], degrees: float
) -> None:
    """And run to the right, the front and the top."""
    angle, affine = np.radians(degrees), np.diag((2.0, 3.0, 4.0, 1.0))
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (2, 3)
    affine[:3, :3] = affine[:3, :3][:, order] * signs
    turned = canonical(Volume(ramp(affine, (4, 3, 2)), affine))

    assert (np.diag(turned.affine)[:3] > 0).all()
    assert np.abs(turned.values - ramp(turned.affine, turned.values.shape)).max() < 1e-3
