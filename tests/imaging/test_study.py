"""One scan a modality on one grid, and a reason for each that is not there."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imaging.reasons import Reason
from imaging.study import read_study
from imaging.volume import Volume
from protocol.errors import DataError, DicomError
from sim.phantom_dicom import write_series
from tests.imaging import studies

WANTED = ("flair", "t1", "t1c", "t2")


def add(
    folder: Path, name: str, modality: str, volume: Volume | None = None, patient: str = "patient"
) -> Path:
    """Write one more series."""
    write_series(folder / name, volume or studies.scan(studies.AXIAL), modality, "siemens", patient)
    return folder / name


def test_the_first_modality_that_is_there_is_the_reference(tmp_path: Path) -> None:
    add(tmp_path, "a", "t2")
    add(tmp_path, "b", "t1")
    study = read_study(tmp_path, WANTED, studies.never)
    assert (study.reference, list(study.volumes)) == ("t1", ["t1", "t2"])
    assert study.lacking.keys() == {"flair", "t1c"}
    assert set(study.lacking.values()) == {"the study has no series of it"}
    assert read_study(tmp_path, WANTED, studies.never, onto="t2").onto == "t2"


def test_other_scans_are_brought_to_the_references_voxels(tmp_path: Path) -> None:
    """A sagittal scan of the same head: its bright structure lands where the axial one's is."""
    add(tmp_path, "a", "flair")
    turned = Volume(
        np.ascontiguousarray(studies.scan(studies.AXIAL).values.transpose(1, 2, 0)),
        studies.AXIAL[:, [1, 2, 0, 3]],
    )
    add(tmp_path, "b", "t1", turned)
    study = read_study(tmp_path, WANTED, studies.never)
    np.testing.assert_allclose(study.volumes["t1"].values, study.volumes["flair"].values, atol=1e-2)
    assert (study.volumes["t1"].affine == study.volumes["flair"].affine).all()


def test_another_frame_of_reference_is_not_used(tmp_path: Path) -> None:
    add(tmp_path, "a", "flair")
    for path in add(tmp_path, "b", "t1").iterdir():
        dataset = dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.save_as(path)
    study = read_study(tmp_path, WANTED, studies.never)
    assert list(study.volumes) == ["flair"]
    assert "another frame of reference" in study.lacking["t1"]


def test_a_series_with_a_hole_gives_way_to_a_whole_one_and_is_said_if_there_is_none(tmp_path: Path) -> None:
    add(tmp_path, "a", "flair")
    (add(tmp_path, "b", "t1") / "0003.dcm").unlink()
    study = read_study(tmp_path, WANTED, studies.never)
    assert study.lacking["t1"].startswith(Reason.MISSING_SLICES)
    small = Volume(studies.scan(studies.AXIAL).values[:, :, :3], studies.AXIAL)
    write_series(tmp_path / "c", small, "t1", "siemens", "patient")
    for path in (tmp_path / "c").iterdir():
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = dataset.SeriesInstanceUID[:50]
        dataset.SOPInstanceUID = dataset.SOPInstanceUID[:50]
        dataset.save_as(path)
    assert "t1" in read_study(tmp_path, WANTED, studies.never).volumes


def test_nothing_usable_is_said_with_what_there_is(tmp_path: Path) -> None:
    add(tmp_path, "a", "t2")
    with pytest.raises(DataError, match=r"none of the model's modalities is there \(flair: .*holds t2"):
        read_study(tmp_path, ("flair",), studies.never)
    with pytest.raises(DataError, match=r"reference 't1': the study has no series of it; choose another"):
        read_study(tmp_path, WANTED, studies.never, onto="t1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds nothing that can be read"):
        read_study(tmp_path / "empty", WANTED, studies.never)
    with pytest.raises(DataError, match="a study is a folder"):
        read_study(tmp_path / "nowhere", WANTED, studies.never)


def test_two_patients_in_a_folder_are_refused(tmp_path: Path) -> None:
    """Also where a careless export has given both one study."""
    add(tmp_path, "a", "flair")
    study = dcmread(tmp_path / "a" / "0001.dcm").StudyInstanceUID
    added = add(tmp_path, "b", "t1", patient="other")
    with pytest.raises(DataError, match="holds 2 studies"):
        read_study(tmp_path, WANTED, studies.never)
    for path in added.iterdir():
        dataset = dcmread(path)
        dataset.StudyInstanceUID = study
        dataset.save_as(path)
    with pytest.raises(DataError, match="holds 2 patients"):
        read_study(tmp_path, WANTED, studies.never)


def test_a_file_that_is_not_read_does_not_stop_the_rest(tmp_path: Path) -> None:
    add(tmp_path, "a", "flair")
    (tmp_path / "a" / "notes.txt").write_text("not DICOM")
    refused: list[str] = []

    def refuse(path: Path, error: DicomError) -> None:
        refused.append(error.reason)

    assert list(read_study(tmp_path, WANTED, refuse).volumes) == ["flair"]
    assert refused == [Reason.NOT_DICOM]
