"""Masks that others drew, on the series' own voxels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from imaging import annotations
from imaging.annotations import read_annotations
from imaging.derived import source_of
from imaging.segmentation import write_segmentation
from imaging.series import Stack, geometry
from imaging.study import read_study
from protocol.errors import DicomError
from sim.phantom_dicom import VENDORS, write_series
from tests.imaging import studies
from tests.imaging.test_segmentation import labels

Corners = list[tuple[float, float]]


def stack_of(folder: Path, plane: str = "oblique") -> Stack:
    """The files of one series."""
    return studies.study(folder, studies.PLANES[plane]).series["flair"].stack


# -- Segmentations ---------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_what_was_written_comes_back(tmp_path: Path, vendor: str) -> None:
    stack = studies.study(tmp_path / "study", studies.OBLIQUE, vendor).series["flair"].stack
    path = tmp_path / "seg.dcm"
    write_segmentation(path, "tumour", studies.found(labels()), source_of(stack), studies.MADE)
    found = read_annotations(path, stack)
    assert [each.label for each in found] == ["tumour 1", "tumour 2"]
    for number, each in enumerate(found, 1):
        np.testing.assert_array_equal(each.mask, labels() == number)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """One series for all."""
    return stack_of(tmp_path_factory.mktemp("series"))


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=8))
def test_any_few_voxels_come_back(stack: Stack, voxels: set[tuple[int, int, int]]) -> None:
    """Also where most slices are left out of the file, or all but one."""
    mask = np.zeros(studies.SHAPE, np.uint8)
    mask[tuple(np.array(sorted(voxels)).T)] = 1
    path = stack.frames[0].path.parents[1] / "seg.dcm"
    write_segmentation(path, "tumour", studies.found(mask), source_of(stack), studies.MADE)
    (found,) = read_annotations(path, stack)
    np.testing.assert_array_equal(found.mask, mask == 1)


def test_a_segmentation_on_finer_voxels_is_brought_to_the_series(tmp_path: Path) -> None:
    """Made on voxels of half the size in the plane; the coarser series has the same field of view."""
    fine = studies.study(tmp_path / "fine").series["flair"].stack
    path = tmp_path / "seg.dcm"
    write_segmentation(
        path, "tumour", studies.found(np.ones(studies.SHAPE, np.uint8)), source_of(fine), studies.MADE
    )
    affine = studies.AXIAL @ np.diag((2.0, 2.0, 1.0, 1.0))
    write_series(tmp_path / "coarse", studies.scan(affine), "flair", "siemens", "patient")
    coarse = read_study(tmp_path / "coarse", ("flair",), studies.never).series["flair"].stack
    (found,) = read_annotations(path, coarse)
    inside = np.zeros(studies.SHAPE, np.bool_)
    inside[:6, :5] = True
    np.testing.assert_array_equal(found.mask, inside)


def test_another_frame_of_reference_another_kind_and_a_compressed_one_are_refused(tmp_path: Path) -> None:
    stack = stack_of(tmp_path / "study")
    path = tmp_path / "seg.dcm"
    write_segmentation(path, "tumour", studies.found(labels()), source_of(stack), studies.MADE)
    elsewhere = dcmread(path)
    elsewhere.FrameOfReferenceUID = "1.2.3"
    elsewhere.save_as(tmp_path / "elsewhere.dcm")
    compressed = dcmread(path)
    compressed.file_meta.TransferSyntaxUID = uid.RLELossless
    compressed.PixelData = encapsulate([compressed.PixelData])
    compressed.save_as(tmp_path / "compressed.dcm")
    for file, words in (
        (tmp_path / "elsewhere.dcm", "another frame of reference"),
        (tmp_path / "compressed.dcm", "decompress"),
        (stack.frames[0].path, "neither a segmentation nor a structure set"),
    ):
        with pytest.raises(DicomError, match=words):
            read_annotations(file, stack)


def test_fewer_pixels_than_claimed_are_refused(tmp_path: Path) -> None:
    stack = stack_of(tmp_path / "study")
    path = tmp_path / "seg.dcm"
    write_segmentation(path, "tumour", studies.found(labels()), source_of(stack), studies.MADE)
    torn = dcmread(path)
    torn.NumberOfFrames = 60_000
    torn.save_as(path)
    with pytest.raises(DicomError, match=r"truncated|bad_pixels|unreadable"):
        read_annotations(path, stack)


# -- Structure sets --------------------------------------------------------------------------


def structure_set(path: Path, stack: Stack, regions: dict[str, list[tuple[float, Corners]]]) -> Path:
    """Write an RTSTRUCT: name -> contours, each a slice and corners in columns and rows."""
    affine, scan = geometry(stack), dcmread(stack.frames[0].path)
    dataset, sets, outlines = Dataset(), list[Dataset](), list[Dataset]()
    for number, (name, contours) in enumerate(regions.items(), 1):
        region, outline = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        region.ReferencedFrameOfReferenceUID = scan.FrameOfReferenceUID
        outline.ReferencedROINumber = number
        outline.ContourSequence = Sequence([_contour(affine, z, corners) for z, corners in contours])
        sets.append(region)
        outlines.append(outline)
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.RTStructureSetStorage, uid.generate_uid()
    dataset.Modality, dataset.StudyInstanceUID = "RTSTRUCT", scan.StudyInstanceUID
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(sets), Sequence(outlines)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(affine: NDArray[np.float64], z: float, corners: Corners) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    points = [affine @ (column, row, z, 1) for column, row in corners]
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{mm:.6f}" for point in points for mm in point[:3]]
    return contour


def box(left: float, top: float, right: float, bottom: float) -> Corners:
    """A rectangle's corners, in columns and rows."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize("plane", studies.PLANES)
def test_contours_are_filled_where_voxels_centres_lie_within(tmp_path: Path, plane: str) -> None:
    stack = stack_of(tmp_path / "study", plane)
    l_shape: Corners = [(1.5, 1.5), (7.5, 1.5), (7.5, 3.5), (4.5, 3.5), (4.5, 7.5), (1.5, 7.5)]
    regions = {"GTV": [(1, l_shape), (2, l_shape)], "one": [(5, box(10.5, 8.5, 11.5, 9.5))]}
    path = structure_set(tmp_path / "rt.dcm", stack, regions)
    first, second = read_annotations(path, stack)
    want = np.zeros(studies.SHAPE, np.bool_)
    want[2:8, 2:4, 1:3] = want[2:5, 4:8, 1:3] = True
    assert (first.label, second.label) == ("GTV", "one")
    np.testing.assert_array_equal(first.mask, want)
    assert np.argwhere(second.mask).tolist() == [[11, 9, 5]]


def test_a_contour_within_another_is_a_hole(tmp_path: Path) -> None:
    stack = stack_of(tmp_path / "study")
    ring = [(3, box(1.5, 1.5, 8.5, 8.5)), (3, box(3.5, 3.5, 5.5, 5.5))]
    (found,) = read_annotations(structure_set(tmp_path / "rt.dcm", stack, {"ring": ring}), stack)
    assert found.mask.sum() == 7 * 7 - 2 * 2
    assert not found.mask[4:6, 4:6].any()


def test_an_ellipse_has_the_area_of_an_ellipse(tmp_path: Path) -> None:
    """Against the formula, within half of the voxels that its edge runs through."""
    stack, angles = stack_of(tmp_path / "study"), np.linspace(0, 2 * np.pi, 200, endpoint=False)
    corners = list(zip(5.5 + 4.2 * np.cos(angles), 4.5 + 3.1 * np.sin(angles), strict=True))
    (found,) = read_annotations(structure_set(tmp_path / "rt.dcm", stack, {"e": [(0, corners)]}), stack)
    assert abs(found.mask.sum() - np.pi * 4.2 * 3.1) < 4


@pytest.mark.parametrize("z", [-1.0, 6.0])
def test_a_contour_outside_of_the_series_is_refused(tmp_path: Path, z: float) -> None:
    stack = stack_of(tmp_path / "study")
    path = structure_set(tmp_path / "rt.dcm", stack, {"GTV": [(z, box(1, 1, 3, 3))]})
    with pytest.raises(DicomError, match="outside"):
        read_annotations(path, stack)


def test_a_contour_across_slices_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    stack = stack_of(tmp_path / "study", "axial")
    path = structure_set(tmp_path / "rt.dcm", stack, {"GTV": [(1, box(1, 1, 3, 3))]})
    for data in (["-1", "-1", "-5", "3", "3", "9", "4", "0", "0"], ["1", "2", "3", "4"]):
        dataset = dcmread(path)
        dataset.ROIContourSequence[0].ContourSequence[0].ContourData = data
        dataset.save_as(tmp_path / "wrong.dcm")
        with pytest.raises(DicomError, match="contour"):
            read_annotations(tmp_path / "wrong.dcm", stack)


def test_a_row_for_a_column_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that swaps the two axes of an image."""
    stack = stack_of(tmp_path / "study", "axial")
    path = structure_set(tmp_path / "rt.dcm", stack, {"GTV": [(1, box(1.5, 1.5, 7.5, 3.5))]})
    right = read_annotations(path, stack)[0].mask
    monkeypatch.setattr(annotations, "geometry", lambda stack: geometry(stack)[:, [1, 0, 2, 3]])
    assert not np.array_equal(read_annotations(path, stack)[0].mask, right)
