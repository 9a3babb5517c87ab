"""A scan as an array and where it stands in the patient."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from scipy.ndimage import shift  # pyright: ignore[reportMissingTypeStubs]

Vector = NDArray[np.float64]
"""`(3,)`, in mm."""
Affine = NDArray[np.float64]
"""`(4, 4)`: voxel indices (x, y, z, 1) -> mm to the patient's right, front and top (RAS+), as in NIfTI."""

SAME_MM = 0.01
"""Grids that differ by less are one grid."""

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
"""DICOM counts to the left and to the back (PS3.3 C.7.6.2.1.1)."""
SQUARE = 1e-3
"""Slices that are shifted by less, as a share of their distance, count as straight."""


@dataclass(frozen=True)
class Volume:
    """`values` float32 `(X, Y, Z)` in the units that its scanner gives (CT: HU), at `affine`."""

    values: NDArray[np.float32]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance from a voxel to the next along each axis."""
        x, y, z = (float(mm) for mm in voxel_sizes(self.affine))
        return x, y, z

    def save(self, path: Path) -> None:
        """Write a NIfTI file."""
        Nifti1Image(self.values, self.affine).to_filename(path)


def straightened(volume: Volume) -> Volume:
    """Return the volume with its slices above each other, as readers without shear need it.

    The slices of a tilted gantry lie each a little further forwards than the one before. They are shifted
    back in their planes by linear interpolation, into a field that is as much larger as they move, and
    whose rest is the volume's lowest value. A volume that is straight already is returned as it is.
    """
    across, down, step = volume.affine[:3, :3].T
    drift = np.array([step @ across / (across @ across), step @ down / (down @ down)])  # voxels a slice
    slices = volume.values.shape[2]
    if np.linalg.norm(drift[0] * across + drift[1] * down) < SQUARE * np.linalg.norm(step) or slices == 1:
        return volume
    moved = np.arange(slices)[:, None] * drift
    before, after = np.ceil(-moved.min(0)).astype(int), np.ceil(moved.max(0)).astype(int)
    margins = list(zip(before, after, strict=True))
    low = volume.values.min()
    values = np.stack(
        [
            shift(np.pad(volume.values[:, :, z], margins, constant_values=low), moved[z], order=1, cval=low)
            for z in range(slices)
        ],
        axis=2,
        dtype=np.float32,
    )
    affine = volume.affine.copy()
    affine[:3, 2] = step - drift[0] * across - drift[1] * down
    affine[:3, 3] -= before[0] * across + before[1] * down
    return Volume(values, affine)


def canonical(volume: Volume) -> Volume:
    """Return the volume with axes turned and swapped so that x is most to the right, y to the front, z up."""
    image = as_closest_canonical(Nifti1Image(volume.values, volume.affine))
    values = np.ascontiguousarray(image.dataobj, np.float32)  # turning leaves negative strides
    return Volume(values, np.asarray(image.affine))


def save_labels(path: Path, labels: NDArray[np.uint8], affine: Affine) -> None:
    """Write a label map as a NIfTI file."""
    Nifti1Image(labels, affine).to_filename(path)
