"""A DICOM file as images in space, whichever of four shapes it has.

    classic      one slice a file; its place stands in the header
    enhanced     many frames a file; each one's place stands in its functional groups, or once
                 for all in the shared ones (PS3.3 C.7.6.16)
    mosaic       Siemens: the slices of a volume as the tiles of one large image; the place of the
                 first tile follows from the large image's, the others lie along the normal that
                 the private CSA header names

A `Frame` says where an image's pixels are to be found and where they belong, and keeps nothing
else of the header. Coordinates here are DICOM's: mm to the left, back and top (LPS).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nicom import csareader
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.dicom import items, number, numbers, quiet, text
from imaging.diffusion import b_value, direction
from imaging.reasons import Reason
from imaging.volume import Vector
from protocol.errors import DicomError

Window = tuple[int, int]
"""First row and first column of a tile."""


@dataclass(frozen=True)
class Frame:
    """One image: `rows` x `columns` pixels of frame `index` of the file at `path`.

    `position`    of the centre of the first pixel
    `across`      unit vector from a column to the next, `down` from a row to the next
    `spacing_mm`  (between rows, between columns)
    `step_mm`     to the next slice, as the header has it; None where it does not say
    `kind`        what it shows; frames that differ in it are never in one volume
    `repeat`      which of several images of one place it is, the surest sign first
    """

    path: Path
    index: int
    window: Window
    rows: int
    columns: int
    series: str
    instance: str
    number: float
    position: Vector
    across: Vector
    down: Vector
    spacing_mm: tuple[float, float]
    step_mm: float | None
    thickness_mm: float | None
    slope: float
    intercept: float
    kind: tuple[object, ...]
    repeat: tuple[float, ...]

    @property
    def normal(self) -> Vector:
        """Return the unit vector that makes a right-handed system with `across` and `down`."""
        return np.cross(self.across, self.down)


def frames(header: Dataset, path: Path) -> list[Frame]:
    """Return the images of a file in the order in which they stand in it.

    Raises:
        DicomError: NO_PIXELS, NO_SERIES, COLOUR, or NO_GEOMETRY where the header does not place an image.
    """
    if not text(header, "Rows"):
        raise DicomError(Reason.NO_PIXELS, "it has no image")
    if (number(header, "SamplesPerPixel") or 1) != 1:
        raise DicomError(Reason.COLOUR, "a colour image is no measurement: a picture of a screen, or a report")
    if not text(header, "SeriesInstanceUID"):
        raise DicomError(Reason.NO_SERIES, "it names no series that it belongs to")
    count, each = int(number(header, "NumberOfFrames") or 1), items(header, "PerFrameFunctionalGroupsSequence")
    if each:
        return [_enhanced(header, path, index, groups) for index, groups in enumerate(each[:count])]
    if count > 1:
        raise DicomError(Reason.NO_GEOMETRY, "it has many frames and says of none where it lies")
    if "MOSAIC" in text(header, "ImageType").split("\\"):
        return _mosaic(header, path)
    return [_frame(header, path, 0, [header])]


def _enhanced(header: Dataset, path: Path, index: int, groups: Dataset) -> Frame:
    """Return one frame; its own functional groups come before the shared ones."""
    shared = items(header, "SharedFunctionalGroupsSequence")
    found = [item for each in (groups, *shared) for element in _sequences(each) for item in element]
    return _frame(header, path, index, [*found, header])


def _sequences(groups: Dataset) -> list[list[Dataset]]:
    with quiet():
        return [items(groups, element.keyword) for element in groups if element.VR == "SQ" and element.keyword]


def _frame(header: Dataset, path: Path, index: int, places: Sequence[Dataset]) -> Frame:
    """Return a frame whose attributes stand in the first of `places` that has them."""

    def find(keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        return next((found for each in places if (found := numbers(each, keyword, count))), None)

    def one(keyword: str) -> float | None:
        return (find(keyword) or (None,))[0]

    position, orientation = find("ImagePositionPatient", 3), find("ImageOrientationPatient", 6)
    spacing = find("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        raise DicomError(Reason.NO_GEOMETRY, "it does not say where its image lies in the patient")
    across, down = _axes(orientation)
    step, thickness = one("SpacingBetweenSlices"), one("SliceThickness")
    slope = one("RescaleSlope")
    return Frame(
        path=path,
        index=index,
        window=(0, 0),
        rows=int(number(header, "Rows") or 0),
        columns=int(number(header, "Columns") or 0),
        series=text(header, "SeriesInstanceUID"),
        instance=f"{text(header, 'SOPInstanceUID')}/{index}",
        number=(number(header, "InstanceNumber") or 0) + index,
        position=np.array(position),
        across=across,
        down=down,
        spacing_mm=(spacing[0], spacing[1]),
        step_mm=abs(step) if step else None,
        thickness_mm=abs(thickness) if thickness else None,
        slope=1.0 if slope is None else slope,
        intercept=one("RescaleIntercept") or 0.0,
        kind=_kind(places),
        repeat=tuple(one(keyword) or 0.0 for keyword in _REPEATS),
    )


_REPEATS = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "AcquisitionTime",
)


def _axes(orientation: tuple[float, ...]) -> tuple[Vector, Vector]:
    """Return the two unit vectors of an image's axes; the second is made square to the first."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(across @ down) > 0.01:  # noqa: PLR2004 - as written: 1, 1, 0
        raise DicomError(Reason.NO_GEOMETRY, "the axes of its image are not at right angles")
    across = across / lengths[0]
    down = down - (down @ across) * across
    return across, down / np.linalg.norm(down)


def _kind(places: Sequence[Dataset]) -> tuple[object, ...]:
    """Return what sets images of one place apart by what they show."""

    def first(keyword: str) -> str:
        return next((found for each in places if (found := text(each, keyword))), "")

    gradient = next((found for each in places if (found := direction(each))), None)
    shown = first("FrameType") or first("ImageType")
    # The third value and what follows say magnitude, phase, ADC, ...; ORIGINAL or MIXED says nothing here.
    component = first("ComplexImageComponent")
    echo = first("EffectiveEchoTime") or first("EchoTime")
    b = next((found for each in places if (found := b_value(each)) is not None), None)
    inversion = first("InversionTime")
    return (*shown.split("\\")[2:], component, echo, inversion, b, gradient)


# -- Mosaic ----------------------------------------------------------------------------------


def _mosaic(header: Dataset, path: Path) -> list[Frame]:
    """Return a frame for each tile.

    The position in the header is that of a large image whose centre is the tiles': the tile's
    own first pixel lies half the difference of their sizes further in.
    """
    whole = _frame(header, path, 0, [header])
    count, normal = _csa(header)
    side = math.ceil(math.sqrt(count))
    rows, columns = whole.rows // side, whole.columns // side
    inwards = ((whole.columns - columns) / 2 * whole.spacing_mm[1] * whole.across) + (
        (whole.rows - rows) / 2 * whole.spacing_mm[0] * whole.down
    )
    step = whole.step_mm or whole.thickness_mm
    if step is None or not rows or not columns:
        raise DicomError(Reason.NO_GEOMETRY, "a mosaic that does not say how far apart its slices are")
    return [
        _tile(whole, whole.position + inwards + tile * step * normal, tile, divmod(tile, side), (rows, columns))
        for tile in range(count)
    ]


def _tile(whole: Frame, position: Vector, tile: int, place: tuple[int, int], size: tuple[int, int]) -> Frame:
    return replace(
        whole,
        position=position,
        instance=f"{whole.instance}/{tile}",
        number=tile,
        window=(place[0] * size[0], place[1] * size[1]),
        rows=size[0],
        columns=size[1],
    )


def _csa(header: Dataset) -> tuple[int, Vector]:
    """Return the number of tiles and the direction from one to the next, of Siemens' private header."""
    try:
        with quiet():
            csa: Any = csareader.get_csa_header(header)
            count, normal = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
    except Exception:  # noqa: BLE001 - a private format, read by trial
        count, normal = None, None
    if normal is None or not count or not 1 <= count <= 1024:  # noqa: PLR2004 - 32 x 32 tiles
        raise DicomError(Reason.NO_GEOMETRY, "a mosaic whose private header is gone: how its tiles lie is lost")
    vector: NDArray[np.float64] = np.asarray(normal, float)
    return int(count), vector / np.linalg.norm(vector)
