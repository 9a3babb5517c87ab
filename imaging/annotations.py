"""What somebody has outlined in a series, as masks on that series' voxels.

    DICOM SEG    a mask a segment (PS3.3 A.51); a fractional one counts from one half on
    RTSTRUCT     closed planar contours (PS3.3 C.8.8.6), a mask a region: the voxels whose centres lie
                 within. Contours of one region in one slice that lie in each other make holes.

A segmentation on another grid is brought to the series' by the nearest voxel. What refers to another frame
of reference is refused: nobody knows where it would lie.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from imaging.decoding import is_encoded, stored
from imaging.dicom import failures, items, number, numbers, read_header, read_whole, text
from imaging.reasons import Reason
from imaging.series import Stack, geometry
from imaging.volume import LPS_TO_RAS, Affine, Volume, resampled
from protocol.errors import DicomError

Mask = NDArray[np.bool_]
"""`(X, Y, Z)` in a stack's columns, rows and slices."""

KINDS = (uid.SegmentationStorage, uid.RTStructureSetStorage)
SEGMENTED, OBSERVED = "SegmentedPropertyTypeCodeSequence", "RTROIIdentificationCodeSequence"
CONTOURS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
HALF = 0.5
FLAT = 0.1
"""How far from its slice, in slices, a contour's points may lie from each other."""


@dataclass(frozen=True)
class Outline:
    """What is said of one outlined structure: the name that its file gives it, `codes` as SCHEME:VALUE."""

    number: int
    label: str
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotation(Outline):
    """One outlined structure and where it is."""

    mask: Mask = field(kw_only=True)


Wanted = Callable[[Outline], bool]


def is_annotation(header: Dataset) -> bool:
    """Tell by a header whether a file outlines something."""
    return text(header, "SOPClassUID") in KINDS


def outlines(header: Dataset) -> list[Outline]:
    """Return what a file says that it outlines, without looking where."""
    segments = [
        Outline(int(number(each, "SegmentNumber") or 0), text(each, "SegmentLabel"), _codes(each, SEGMENTED))
        for each in items(header, "SegmentSequence")
    ]
    observed = {
        text(each, "ReferencedROINumber"): each for each in items(header, "RTROIObservationsSequence")
    }
    return segments or [
        Outline(
            int(number(each, "ROINumber") or 0),
            text(each, "ROIName"),
            _codes(observed.get(text(each, "ROINumber"), Dataset()), OBSERVED),
        )
        for each in items(header, "StructureSetROISequence")
    ]


def drawn_on(header: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """Return the series and the frames of reference that a file says it was drawn on."""
    frames = items(header, "ReferencedFrameOfReferenceSequence")
    studies = [study for frame in frames for study in items(frame, "RTReferencedStudySequence")]
    series = [each for study in studies for each in items(study, "RTReferencedSeriesSequence")]
    series += items(header, "ReferencedSeriesSequence")
    return (
        frozenset(text(each, "SeriesInstanceUID") for each in series) - {""},
        frozenset(text(each, "FrameOfReferenceUID") for each in [header, *frames]) - {""},
    )


def _codes(item: Dataset, sequence: str) -> tuple[str, ...]:
    return tuple(
        f"{text(each, 'CodingSchemeDesignator')}:{text(each, 'CodeValue')}" for each in items(item, sequence)
    )


def read_annotations(path: Path, stack: Stack, wanted: Wanted = lambda _: True) -> list[Annotation]:
    """Return what is `wanted` of what the file outlines in a series, in the file's order.

    Raises:
        DicomError: as `imaging.dicom.read_whole`, or NO_PIXELS for another kind of file, NO_GEOMETRY where it
            does not lie in this series, UNKNOWN_SYNTAX for compressed segmentations.
    """
    header = read_header(path)
    if text(header, "SOPClassUID") == uid.SegmentationStorage:
        return _segments(path, header, stack, wanted)
    if text(header, "SOPClassUID") == uid.RTStructureSetStorage:
        return list(_regions(header, stack, wanted))
    raise DicomError(Reason.NO_PIXELS, "it is neither a segmentation nor a structure set")


def _require_same_frame(theirs: str, stack: Stack) -> None:
    ours = text(read_header(stack.frames[0].path), "FrameOfReferenceUID")
    if not ours or theirs != ours:
        raise DicomError(Reason.NO_GEOMETRY, "it outlines another frame of reference than the series'")


# -- Segmentations ---------------------------------------------------------------------------


def _segments(path: Path, header: Dataset, stack: Stack, wanted: Wanted) -> list[Annotation]:
    _require_same_frame(text(header, "FrameOfReferenceUID"), stack)
    if is_encoded(header):
        raise DicomError(Reason.UNKNOWN_SYNTAX, "a compressed segmentation is not read: decompress it")
    stored(path)  # holds what its header claims against what is there
    grid = LPS_TO_RAS @ geometry(stack), _shape(stack)
    dataset = read_whole(path)
    with failures(Reason.UNREADABLE):
        segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        return [_segment(segmentation, each, *grid) for each in outlines(header) if wanted(each)]


def _segment(
    segmentation: hd.seg.Segmentation, outline: Outline, affine: Affine, shape: tuple[int, int, int]
) -> Annotation:
    volume = segmentation.get_volume(segment_numbers=[outline.number])
    values = volume.array[..., 0].astype(np.float32)
    found = resampled(Volume(values, LPS_TO_RAS @ volume.affine), affine, shape, nearest=True)
    return Annotation(outline.number, outline.label, outline.codes, mask=found.values >= HALF)


def _shape(stack: Stack) -> tuple[int, int, int]:
    return stack.frames[0].columns, stack.frames[0].rows, len(stack.frames)


# -- Structure sets --------------------------------------------------------------------------


def _regions(header: Dataset, stack: Stack, wanted: Wanted) -> Iterator[Annotation]:
    """Yield the regions that have contours; those that are marked by points have no inside."""
    drawn = {number(each, "ReferencedROINumber"): each for each in items(header, "ROIContourSequence")}
    frames = {
        number(each, "ROINumber"): text(each, "ReferencedFrameOfReferenceUID")
        for each in items(header, "StructureSetROISequence")
    }
    to_voxels: Affine = np.linalg.inv(geometry(stack)).astype(np.float64)
    for each in filter(wanted, outlines(header)):
        contours = list(_contours(drawn.get(each.number, Dataset())))
        if contours:
            _require_same_frame(frames[each.number], stack)
            mask = _filled(contours, to_voxels, _shape(stack))
            yield Annotation(each.number, each.label, each.codes, mask=mask)


def _contours(outline: Dataset) -> Iterator[NDArray[np.float64]]:
    """Yield each closed contour's points, `(n, 3)` in mm in LPS."""
    for contour in items(outline, "ContourSequence"):
        if text(contour, "ContourGeometricType") in CONTOURS:
            points = numbers(contour, "ContourData")
            if points is None or len(points) % 3 or len(points) < 9:  # noqa: PLR2004 - a triangle
                raise DicomError(Reason.UNREADABLE, "a contour that is no list of points in space")
            yield np.array(points).reshape(-1, 3)


def _filled(contours: list[NDArray[np.float64]], to_voxels: Affine, shape: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, np.bool_)
    centres = np.indices(shape[:2]).reshape(2, -1).T
    for contour in contours:
        points = contour @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        mask[:, :, _slice(points[:, 2], shape[2])] ^= (
            Polygon(points[:, :2], closed=False).contains_points(centres).reshape(shape[:2])
        )
    return mask


def _slice(places: NDArray[np.float64], slices: int) -> int:
    """Return the slice that a contour's points lie in, given where they lie along the slices."""
    place = round(float(places.mean()))
    if np.ptp(places) > FLAT or not 0 <= place < slices:
        raise DicomError(Reason.NO_GEOMETRY, "a contour lies across the series' slices, or outside of them")
    return place
