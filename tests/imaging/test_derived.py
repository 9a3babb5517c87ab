"""What headers lack, and what must not be said of them."""

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydicom import dcmread

from imaging import derived
from imaging.derived import code, source_of
from imaging.dicom import quiet
from imaging.segmentation import write_segmentation
from imaging.study import Study, read_study
from protocol.errors import DicomError
from tests.imaging import studies


def altered(folder: Path, **values: object) -> Study:
    """A study whose headers were changed; None takes an attribute away."""
    studies.study(folder)
    for path in sorted((folder / "1").iterdir()):
        dataset = dcmread(path)
        for keyword, value in values.items():
            delattr(dataset, keyword)
            if value is not None:
                with quiet():
                    setattr(dataset, keyword, value)
        with quiet():
            dataset.save_as(path)
    return read_study(folder, ("flair",), studies.never)


def write(folder: Path, study: Study) -> Path:
    """Write a SEG of it."""
    source = source_of(study.series["flair"].stack)
    found = studies.found(studies.structure().astype("uint8"))
    write_segmentation(folder / "seg.dcm", "tumour", found, source, studies.MADE)
    return folder / "seg.dcm"


def test_what_archives_leave_out_is_empty_in_what_is_derived(tmp_path: Path) -> None:
    lacking = dict.fromkeys(("PatientBirthDate", "AccessionNumber", "StudyID"))
    study = altered(tmp_path / "study", **lacking, PatientSex="U")
    seg = dcmread(write(tmp_path, study))
    assert (seg.PatientBirthDate, seg.AccessionNumber, seg.PatientSex) == ("", "", "")


def test_without_a_frame_of_reference_no_segmentation_is_derived(tmp_path: Path) -> None:
    study = altered(tmp_path / "study", FrameOfReferenceUID=None)
    with pytest.raises(DicomError, match="frame of reference"):
        write(tmp_path, study)


def test_nothing_of_a_patient_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The mutant in which highdicom's words reach our log says which instances those are."""
    study = studies.study(tmp_path / "study")
    instance = str(source_of(study.series["flair"].stack).headers[0].SOPInstanceUID)
    caplog.set_level(logging.INFO)
    write(tmp_path, study)
    assert instance not in caplog.text
    caplog.set_level(logging.INFO, logger="highdicom")
    write(tmp_path, study)
    assert instance in caplog.text


def test_a_name_that_is_no_name_is_kept_and_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant lets highdicom's warning through, which quotes the name and is an error here."""
    study = altered(tmp_path / "study", PatientName="JaneDoe")
    assert dcmread(write(tmp_path, study)).PatientName == "JaneDoe"
    monkeypatch.setattr(derived, "quiet", nullcontext)
    with pytest.raises(DicomError, match="UserWarning"):
        write(tmp_path, study)


def test_what_cannot_be_derived_is_said_without_the_values(tmp_path: Path) -> None:
    study = altered(tmp_path / "study", StudyDate="19-Doe-61")
    with pytest.raises(DicomError, match=r"not_derived: .*choose another series") as caught:
        write(tmp_path, study)
    assert "Doe" not in str(caught.value)


def test_long_words_have_codes_of_their_own() -> None:
    first, second = code("probability of grade 1"), code("probability of grade 2")
    assert first.value != second.value
    assert max(len(first.value), len(second.value)) <= 16
    assert code("tumour").value == "tumour"
