"""Grids and motions, against what can be computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # pyright: ignore[reportMissingTypeStubs]

from imaging.ingest import space
from imaging.ingest.space import Grid, box, cropped, grid_of, registered, resampled
from imaging.volume import Affine, Volume

SHAPE = (14, 12, 10)
SLOPE = np.array((0.7, -1.3, 2.1))


def turned(degrees: float, spacing: tuple[float, float, float] = (2.0, 3.0, 4.0)) -> Affine:
    """An oblique affine."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = (-20.0, 11.0, 5.0)
    return affine


def places(shape: tuple[int, ...], affine: Affine) -> NDArray[np.float64]:
    """Where each voxel's centre is, `(X, Y, Z, 3)` in mm."""
    return apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))


def ramp(affine: Affine, shape: tuple[int, ...] = SHAPE) -> Volume:
    """A value that says where in space a voxel is: linear interpolation gives it exactly."""
    return Volume((places(shape, affine) @ SLOPE).astype(np.float32), affine)


def test_resampling_puts_the_value_of_a_place_in_that_place() -> None:
    """An oblique scan on an upright grid; voxels whose centre lies outside are its darkest value."""
    scan, target = ramp(turned(20)), Grid((6, 6, 5), np.diag((2.0, 2.0, 5.0, 1.0)))
    target.affine[:3, 3] = places(SHAPE, scan.affine)[4, 4, 3]

    found = resampled(scan, target)

    inside = apply_affine(np.linalg.inv(scan.affine), places(target.shape, target.affine))
    known = ((inside >= 0) & (inside <= np.subtract(SHAPE, 1))).all(-1)
    expected = places(target.shape, target.affine) @ SLOPE
    assert known.sum() > 50
    assert np.allclose(found.values[known], expected[known], atol=1e-3)
    assert (found.values[~known] == scan.values.min()).all()


def test_a_mutant_with_axes_in_another_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space._placed
    monkeypatch.setattr(
        space, "_placed", lambda affine: (whole(affine)[0], whole(affine)[1][::-1], whole(affine)[2])
    )

    with pytest.raises(AssertionError):
        test_resampling_puts_the_value_of_a_place_in_that_place()


def test_label_maps_keep_their_labels() -> None:
    labels = Volume(np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.float32), turned(0))

    found = resampled(labels, grid_of(labels, (1.7, 2.3, 3.1)), labels=True)

    assert {*np.unique(found.values)} <= {0, 1, 2, 3}


def test_one_grid_is_left_as_it_is() -> None:
    scan = ramp(turned(7))

    assert resampled(scan, grid_of(scan, None)) is scan


@given(st.tuples(*[st.floats(0.5, 8)] * 3))
def test_other_voxels_cover_the_same_field(spacing: tuple[float, float, float]) -> None:
    """The corner of the first voxel stays; the last one's is off by half a voxel at most."""
    scan = ramp(turned(30))
    grid = grid_of(scan, spacing)

    assert np.allclose(apply_affine(grid.affine, [-0.5] * 3), apply_affine(scan.affine, [-0.5] * 3))
    fields = np.multiply(grid.shape, spacing), np.multiply(SHAPE, scan.spacing_mm)
    assert (
        np.abs(fields[0] - fields[1]) <= np.maximum(np.divide(spacing, 2), spacing - fields[1]) + 1e-6
    ).all()


def test_a_box_holds_what_is_bright_and_its_margin() -> None:
    values = np.zeros(SHAPE, np.float32)
    values[5:7, 4, 2:9] = 1

    assert box(values, (1, 2, 3)) == (slice(4, 8), slice(2, 7), slice(0, 10))
    assert box(np.ones(SHAPE, np.float32), (0, 0, 0)) == tuple(slice(0, n) for n in SHAPE)


def test_what_is_cut_out_stays_in_its_place() -> None:
    found = cropped(ramp(turned(15)), (slice(3, 9), slice(1, 5), slice(2, 4)))

    assert np.allclose(places(found.values.shape, found.affine) @ SLOPE, found.values, atol=1e-3)


def test_a_known_motion_is_found_again_to_a_third_of_a_voxel() -> None:
    """Another contrast of one head, moved by 4 mm and turned by 5 degrees; the same bytes twice."""
    noise = np.random.default_rng(3).normal(size=(32, 32, 16))
    head = gaussian_filter(noise, 3)
    head = (head - head.min()) / (head.max() - head.min())
    affine = np.diag((3.0, 3.0, 5.0, 1.0))
    affine[:3, 3] = (-48, -48, -40)
    moved = turned(5, (1, 1, 1))
    moved[:3, 3] = (4, -3, 2)
    fixed = Volume(head.astype(np.float32), affine)
    moving = Volume((100 * (1 - head) ** 2).astype(np.float32), moved @ affine)

    motion = registered(moving, fixed)

    lps = np.diag((-1, -1, 1))
    for point in ((0, 0, 0), (20, -15, 10), (-25, 20, -15)):
        found = lps @ motion.TransformPoint([float(each) for each in lps @ point])
        assert np.linalg.norm(found - apply_affine(moved, point)) < 1.0
    assert registered(moving, fixed).GetParameters() == motion.GetParameters()
