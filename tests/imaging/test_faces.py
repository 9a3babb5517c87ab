"""A head made of ellipsoids, in mm, with a face on it."""

import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from imaging import faces
from imaging.faces import face
from imaging.volume import Affine, Volume

ACROSS, NOSE, MOUTH, CHIN = (0, 0, 0), (0, 104, -42), (0, 92, -70), (0, 84, -98)


def within(
    places: NDArray[np.float64], centre: tuple[float, ...], radii: tuple[float, ...]
) -> NDArray[np.bool_]:
    """An ellipsoid's voxels."""
    return (((places - np.array(centre)) / np.array(radii)) ** 2).sum(-1) < 1


def head(affine: Affine, shape: tuple[int, int, int]) -> tuple[Volume, NDArray[np.bool_], NDArray[np.bool_]]:
    """A scan, its brain, and its face: scalp, dark bone, bright brain; jaw, nose, mouth, chin and a neck."""
    places = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    brain = within(places, ACROSS, (69, 84, 62))
    bone = within(places, ACROSS, (74, 90, 68)) & ~within(places, ACROSS, (70, 85, 63))
    features = [within(places, centre, (16, 16, 14)) for centre in (NOSE, MOUTH, CHIN)]
    skin = within(places, ACROSS, (79, 96, 74)) | within(places, (0, 40, -60), (52, 52, 62))
    neck = within(places, (0, -20, -120), (55, 55, 90))
    values = np.where(skin | neck | np.any(features, 0), 300.0, 0) + np.where(brain, 200, 0)
    values[bone] = 20
    noise = np.random.default_rng(0).normal(0, 10, shape)
    return Volume((values + noise).astype(np.float32), affine), brain, np.any(features, 0) & ~skin


def placed(spacing: tuple[float, float, float], degrees: float, shape: tuple[int, int, int]) -> Affine:
    """Voxels around the head, nodding by so many degrees."""
    angle = np.radians(degrees)
    nod = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = nod * spacing
    affine[:3, 3] = np.array((0, 5, -30)) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize(
    ("spacing", "degrees", "shape"),
    [
        ((3, 3, 3), 0, (64, 80, 76)),
        ((4, 4, 6), 0, (48, 60, 38)),
        ((4, 4, 4), 12, (48, 64, 60)),
        ((4, 4, 5), -12, (48, 64, 28)),  # ends below the nose, as many scans do
    ],
)
def test_the_face_goes_and_the_brain_stays(
    spacing: tuple[float, float, float], degrees: float, shape: tuple[int, int, int]
) -> None:
    scan, brain, features = head(placed(spacing, degrees, shape), shape)

    found = face(scan)

    assert brain.any()
    assert features.any()
    assert not (found & brain).any()
    assert found[features].mean() > 0.97


def test_a_plane_on_the_other_side_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "FORWARD_AND_DOWN", faces.FORWARD_AND_DOWN * (1, -1, 1))

    with pytest.raises(AssertionError):
        test_the_face_goes_and_the_brain_stays((4, 4, 6), 0, (48, 60, 38))


def test_a_body_below_the_head_does_not_count() -> None:
    """Shoulders are wider than any head."""
    shape = (60, 60, 60)
    affine = placed((5, 5, 6), 0, shape)
    scan, brain, features = head(affine, shape)
    places = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    scan.values[within(places, (0, -30, -230), (140, 120, 130))] = 300

    found = face(scan)

    assert not (found & brain).any()
    assert found[features].mean() > 0.97


def test_a_flat_scan_has_no_face() -> None:
    assert not face(Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))).any()
