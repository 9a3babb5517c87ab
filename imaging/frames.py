"""A DICOM file as images in space, whichever of four shapes it has.

    classic      one slice a file; its place stands in the header
    enhanced     many frames a file; each one's place stands in its functional groups, or once
                 for all in the shared ones (PS3.3 C.7.6.16)
    mosaic       the slices of a volume as the tiles of one large image; how they lie stands in the
                 vendor's private header: Siemens' names a normal, United Imaging's every position
    flat         one picture that has no place in the patient (imaging.projections)

A `Frame` says where an image's pixels are to be found and where they belong, and keeps nothing
else of the header. Coordinates here are DICOM's: mm to the left, back and top (LPS).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from imaging.dicom import items, number, numbers, private_items, quiet, text
from imaging.diffusion import b_value, direction
from imaging.projections import ULTRASOUND, Spacing, is_flat, laid
from imaging.reasons import Reason
from imaging.volume import Vector
from protocol.errors import DicomError

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # "highly experimental": so is the format, and its values are checked here
    from nibabel.nicom import csareader

MOST_TILES = 1024
FARTHEST_MM = 1e6


@dataclass(frozen=True)
class Frame:
    """One image: `rows` x `columns` pixels of frame `index` of the file at `path`.

    `window`      row and column of its first pixel, where the image is a tile
    `position`    of the centre of the first pixel
    `across`      unit vector from a column to the next, `down` from a row to the next
    `spacing_mm`  (between rows, between columns)
    `step_mm`     to the next slice, as the header has it; None where it does not say
    `kind`        what it shows; frames that differ in it are never in one volume
    `repeat`      which of several images of one place it is, the surest sign first; at last, its file
    `flat`        it has no place in the patient
    """

    path: Path
    index: int
    window: tuple[int, int]
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
    repeat: tuple[float | str, ...]
    flat: bool = False

    @property
    def normal(self) -> Vector:
        """Return the unit vector that makes a right-handed system with `across` and `down`."""
        return np.cross(self.across, self.down)


def frames(header: Dataset, path: Path, pictures_mm: Spacing | None = None) -> list[Frame]:
    """Return the images of a file in the order in which they stand in it.

    `pictures_mm`: how large a pixel is of a flat one that does not say.

    Raises:
        DicomError: NO_PIXELS, NO_SERIES, COLOUR, or NO_GEOMETRY where the header does not place an image.
    """
    if not text(header, "Rows"):
        raise DicomError(Reason.NO_PIXELS, "it has no image")
    flat = is_flat(header)
    coloured = (number(header, "SamplesPerPixel") or 1) != 1
    palette = text(header, "PhotometricInterpretation") == "PALETTE COLOR"  # its values are names of colours
    if palette or (coloured and not (flat and text(header, "Modality") == ULTRASOUND)):
        raise DicomError(
            Reason.COLOUR, "a colour image is no measurement: a picture of a screen, or a report"
        )
    if not text(header, "SeriesInstanceUID"):
        raise DicomError(Reason.NO_SERIES, "it names no series that it belongs to")
    if flat:
        return [_picture(header, path, pictures_mm)]
    count = max(1, int(number(header, "NumberOfFrames") or 1))
    groups = items(header, "PerFrameFunctionalGroupsSequence")
    if groups:
        return [
            _frame(header, path, index, places(header, index)) for index in range(min(count, len(groups)))
        ]
    if count > 1:
        raise DicomError(Reason.NO_GEOMETRY, "it has many frames and says of none where it lies")
    shown = text(header, "ImageType").split("\\")
    if "MOSAIC" in shown:
        return _siemens(header, path)
    if "VFRAME" in shown and private_items(header, 0x0065, "Image Private Header", 0x51):
        return _united(header, path)
    return [_frame(header, path, 0, [header])]


def _picture(header: Dataset, path: Path, pictures_mm: Spacing | None) -> Frame:
    """Return the frame of a picture without a place, which is of a kind of its own."""
    frame = _frame(header, path, 0, [laid(header, pictures_mm), header])
    return replace(frame, kind=(frame.instance,), flat=True)


def places(header: Dataset, index: int = 0) -> list[Dataset]:
    """Return where a frame's attributes may stand: its functional groups, the shared ones, the header."""
    own = items(header, "PerFrameFunctionalGroupsSequence")[index : index + 1]
    groups = [*own, *items(header, "SharedFunctionalGroupsSequence")]
    return [*(item for each in groups for element in _sequences(each) for item in element), header]


def _sequences(groups: Dataset) -> list[list[Dataset]]:
    with quiet():
        return [
            items(groups, element.keyword) for element in groups if element.VR == "SQ" and element.keyword
        ]


def _frame(header: Dataset, path: Path, index: int, where: Sequence[Dataset]) -> Frame:
    """Return a frame whose attributes stand in the first of `where` that has them."""

    def find(keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        return next((found for each in where if (found := numbers(each, keyword, count))), None)

    def one(keyword: str) -> float | None:
        return (find(keyword) or (None,))[0]

    position, orientation = find("ImagePositionPatient", 3), find("ImageOrientationPatient", 6)
    spacing = find("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        raise DicomError(Reason.NO_GEOMETRY, "it does not say where its image lies in the patient")
    if min(spacing) <= 0 or max(*spacing, *map(abs, position)) > FARTHEST_MM:
        raise DicomError(Reason.NO_GEOMETRY, "its image lies nowhere near a patient")
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
        kind=_kind(where),
        repeat=(*(one(keyword) or 0.0 for keyword in _REPEATS), text(header, "SOPInstanceUID")),
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


def _kind(where: Sequence[Dataset]) -> tuple[object, ...]:
    """Return what sets images of one place apart by what they show."""

    def first(keyword: str) -> str:
        return next((found for each in where if (found := text(each, keyword))), "")

    gradient = next((found for each in where if (found := direction(each))), None)
    shown = first("FrameType") or first("ImageType")
    # The third value and what follows say magnitude, phase, ADC, ...; ORIGINAL or MIXED says nothing here.
    component = first("ComplexImageComponent")
    times = [first("EffectiveEchoTime") or first("EchoTime"), first("InversionTime")]
    b = next((found for each in where if (found := b_value(each)) is not None), None)
    return (*shown.split("\\")[2:], component, *times, b, gradient)


# -- Mosaics ---------------------------------------------------------------------------------


def _siemens(header: Dataset, path: Path) -> list[Frame]:
    """Return a frame for each tile of a Siemens mosaic.

    The position in the header is that of a large image whose centre is the tiles': a tile's
    own first pixel lies half the difference of their sizes further in.
    """
    whole = _frame(header, path, 0, [header])
    count, normal = _csa(header)
    side = math.ceil(math.sqrt(count))
    rows, columns = whole.rows // side, whole.columns // side
    right = (whole.columns - columns) / 2 * whole.spacing_mm[1] * whole.across
    below = (whole.rows - rows) / 2 * whole.spacing_mm[0] * whole.down
    step = whole.step_mm or whole.thickness_mm
    if step is None:
        raise DicomError(Reason.NO_GEOMETRY, "a mosaic that does not say how far apart its slices are")
    positions = [whole.position + right + below + tile * step * normal for tile in range(count)]
    return _tiles(whole, positions, side, side)


def _united(header: Dataset, path: Path) -> list[Frame]:
    """Return a frame for each tile of a United Imaging mosaic, whose private header lists their positions."""
    tiles = private_items(header, 0x0065, "Image Private Header", 0x51)
    positions = [found for tile in tiles if (found := numbers(tile, "ImagePositionPatient", 3))]
    if not positions or len(positions) != len(tiles):
        raise DicomError(
            Reason.NO_GEOMETRY, "a mosaic whose private header is gone: how its tiles lie is lost"
        )
    side = math.ceil(math.sqrt(len(tiles)))
    whole = _frame(header, path, 0, [header, tiles[0]])
    return _tiles(whole, [np.array(each) for each in positions], math.ceil(len(tiles) / side), side)


def _tiles(whole: Frame, positions: Sequence[Vector], down: int, across: int) -> list[Frame]:
    """Cut an image into `down` x `across` tiles, of which the first `len(positions)` are slices."""
    rows, columns = whole.rows // down, whole.columns // across
    return [
        replace(
            whole,
            position=position,
            instance=f"{whole.instance}/{tile}",
            number=tile,
            window=(tile // across * rows, tile % across * columns),
            rows=rows,
            columns=columns,
        )
        for tile, position in enumerate(positions)
    ]


def _csa(header: Dataset) -> tuple[int, Vector]:
    """Return the number of tiles and the direction from one to the next, of Siemens' private header."""
    try:
        with quiet():
            csa: Any = csareader.get_csa_header(header)
            count, normal = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
    except Exception:  # noqa: BLE001 - a private format, read by trial
        count, normal = None, None
    if normal is None or not count or not 1 <= count <= MOST_TILES:
        raise DicomError(
            Reason.NO_GEOMETRY, "a mosaic whose private header is gone: how its tiles lie is lost"
        )
    vector: Vector = np.asarray(normal, float)
    return int(count), vector / np.linalg.norm(vector)
