"""Small DICOM studies with a known structure in them, and what is needed to write results of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.derived import Segmented
from imaging.provenance import Provenance
from imaging.study import Study, read_study
from imaging.volume import Affine, Volume
from protocol.errors import DicomError
from sim.phantom_dicom import write_series

SHAPE = (12, 10, 6)
"""Columns, rows, slices: all different, so that no two axes can be swapped unseen."""

AXIAL = np.array([[-2.0, 0, 0, 11], [0, -3, 0, 13], [0, 0, 4, -9], [0, 0, 0, 1]])
SAGITTAL = np.array([[0.0, 0, 4, -9], [-2, 0, 0, 11], [0, -3, 0, 13], [0, 0, 0, 1]])
_COS, _SIN = np.cos(0.3), np.sin(0.3)
_TURN = np.array([[_COS, -_SIN, 0, 0], [_SIN, _COS, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_TIP = np.array([[1, 0, 0, 0], [0, _COS, -_SIN, 0], [0, _SIN, _COS, 0], [0, 0, 0, 1]])
OBLIQUE = _TURN @ _TIP @ AXIAL
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "oblique": OBLIQUE}

MADE = Provenance(
    "phantom", "0" * 64, "None. It was trained without.", ("flair",), {"t1": "the study has no series of it"}
)


def structure() -> NDArray[np.bool_]:
    """One that looks different from every side, and lies in the middle of nothing."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[2:5, 3:8, 1:3] = mask[5:9, 3:5, 1:3] = mask[2:5, 3:5, 3:5] = True
    return mask


def scan(affine: Affine, seed: int = 0) -> Volume:
    """Noise, and `structure` far brighter."""
    noise = np.random.default_rng(seed).integers(90, 110, SHAPE)
    return Volume(np.where(structure(), 900, noise).astype(np.float32), affine)


def never(path: Path, error: DicomError) -> None:
    """No file may be refused."""
    raise AssertionError(path, error)


def study(folder: Path, affine: Affine = AXIAL, vendor: str = "siemens", *wanted: str) -> Study:
    """Write a study of one flair and read it."""
    write_series(folder / "1", scan(affine), "flair", vendor, "patient")
    return read_study(folder, wanted or ("flair", "t1"), never)


def found(labels: NDArray[np.uint8], voxel_mm3: float = 24.0) -> Segmented:
    """What a model would say that found these labels."""
    return Segmented(
        labels, tuple(float((labels == n).sum()) * voxel_mm3 for n in range(1, labels.max() + 1)), 0.25
    )
