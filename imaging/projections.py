"""Pictures of one plane that have no place in the patient: X-rays, and stills of ultrasound.

A radiograph adds up what lies behind one another, and an ultrasound probe is held by hand: no header says
where such a picture lies. Each is a stack of its own, laid by its middle on one plane that all of a patient's
pictures share, columns to the patient's left and rows to the back, so that whatever shows slices shows it
upright. It is never brought onto a volume, nor a volume onto it.

    size of a pixel   PixelSpacing; else that of the detector, made smaller by the magnification; else that of
                      the film's scanner (PS3.3 10.7); of ultrasound, its first region's (PS3.3 C.8.5.5);
                      else what the hospital says of all that say nothing
    values            where the lowest is white (MONOCHROME1), they are turned over: light is high in all
    colour            ultrasound's becomes grey, by how bright it looks (ITU-R BT.601)
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.dicom import items, number, numbers, quiet, text
from imaging.reasons import Reason
from protocol.errors import DicomError

ULTRASOUND = "US"
MODALITIES = frozenset({"CR", "DX", "MG", "RF", "RG", "XA", ULTRASOUND})
"""(0008,0060) of what can be such a picture."""
Spacing = tuple[float, float]
"""From a row to the next, and from a column to the next, in mm."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
CENTIMETRES = 3
"""How a region of ultrasound says that its axis is in cm."""


def is_flat(header: Dataset) -> bool:
    """Tell whether a file is one picture without a place in the patient."""
    return (
        text(header, "Modality") in MODALITIES
        and (number(header, "NumberOfFrames") or 1) == 1
        and not text(header, "ImagePositionPatient")
    )


def laid(header: Dataset, otherwise_mm: Spacing | None = None) -> Dataset:
    """Return what a slice's header would say of a picture: where it lies, and how its values rise.

    Raises:
        DicomError: NO_GEOMETRY, where it does not say how large a pixel is, and `otherwise_mm` does not.
    """
    down, across = _spacing(header, otherwise_mm)
    rows, columns = number(header, "Rows") or 0, number(header, "Columns") or 0
    slope, intercept = number(header, "RescaleSlope") or 1.0, number(header, "RescaleIntercept") or 0.0
    if text(header, "PhotometricInterpretation") == "MONOCHROME1":
        slope, intercept = -slope, intercept + slope * _ends(header)
    found = Dataset()
    with quiet():  # of digits there may be more than DICOM writes
        found.ImagePositionPatient = [-(columns - 1) / 2 * across, -(rows - 1) / 2 * down, 0.0]
        found.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        found.PixelSpacing, found.SpacingBetweenSlices = [down, across], 1
        found.RescaleSlope, found.RescaleIntercept = slope, intercept
    return found


def grey(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return RGB `(rows, columns, 3)` as brightness `(rows, columns)`."""
    return colours @ LUMA


def _spacing(header: Dataset, otherwise_mm: Spacing | None) -> Spacing:
    detector, scale = numbers(header, "ImagerPixelSpacing", 2), _magnification(header)
    found = (
        numbers(header, "PixelSpacing", 2)
        or (detector and (detector[0] / scale, detector[1] / scale))
        or numbers(header, "NominalScannedPixelSpacing", 2)
        or _of_region(header)
        or otherwise_mm
    )
    if found is None or min(found) <= 0:
        raise DicomError(
            Reason.NO_GEOMETRY,
            "it does not say how large its pixels are, nor does `pictures_mm` of ingest.yaml",
        )
    return found[0], found[1]


def _magnification(header: Dataset) -> float:
    return max(1.0, number(header, "EstimatedRadiographicMagnificationFactor") or 1.0)


def _of_region(header: Dataset) -> Spacing | None:
    for region in items(header, "SequenceOfUltrasoundRegions")[:1]:
        units = [number(region, f"PhysicalUnits{axis}Direction") for axis in "YX"]
        down, across = (number(region, f"PhysicalDelta{axis}") for axis in "YX")
        if units == [CENTIMETRES] * 2 and down and across:
            return 10 * abs(down), 10 * abs(across)
    return None


def _ends(header: Dataset) -> float:
    """Return the sum of the lowest and the highest value that can be stored."""
    signed = number(header, "PixelRepresentation") == 1
    return -1.0 if signed else 2.0 ** (number(header, "BitsStored") or 0) - 1
