"""A scan as an array and where it stands in the patient."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

Vector = NDArray[np.float64]
"""`(3,)`, in mm."""
Affine = NDArray[np.float64]
"""`(4, 4)`: voxel indices (x, y, z, 1) -> mm to the patient's right, front and top (RAS+), as in NIfTI."""

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
"""DICOM counts to the left and to the back (PS3.3 C.7.6.2.1.1)."""


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
