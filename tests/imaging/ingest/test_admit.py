"""What trees of NIfTI files say by their names."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image, load

from imaging.ingest.admit import nifti_name, whose
from imaging.ingest.settings import read_method
from imaging.ingest.walk import Entry
from protocol.errors import DicomError
from tests.imaging.ingest.exports import AFFINE, SHAPE, brought, desk


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("bids/sub-01/anat/sub-01_T1w.nii.gz", ("01", "", "t1")),
        ("bids/sub-01/ses-2/anat/sub-01_ses-2_ce-gadolinium_T1w.nii.gz", ("01", "2", "t1c")),
        ("bids/derivatives/seg/sub-01/ses-2/anat/sub-01_ses-2_seg.nii.gz", ("01", "2", "tumour")),
        ("brats/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii", ("BraTS20_Training_001", "", "t1c")),
        ("brats/BraTS-GLI-00005-001/BraTS-GLI-00005-001-t2f.nii.gz", ("BraTS-GLI-00005", "001", "flair")),
        ("brats/BraTS-GLI-00005-001/BraTS-GLI-00005-001-t1n.nii.gz", ("BraTS-GLI-00005", "001", "t1")),
        ("own/4711/tumour.nii.gz", ("4711", "", "tumour")),
    ],
)
def test_patient_visit_and_modality_are_told_by_names(path: str, told: tuple[str, str, str]) -> None:
    entry = Entry(path, "", 0, 0)

    assert (*whose(entry.parts[:-1]), nifti_name(read_method(None), entry.parts[-1])) == told


def test_another_name_is_no_modality() -> None:
    with pytest.raises(DicomError, match="no modality"):
        nifti_name(read_method(None), "t1_of_somebody.nii")


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(SHAPE, value, np.int16)
    values[0] = 0
    Nifti1Image(values, AFFINE).to_filename(path)


def test_visits_are_not_mixed(tmp_path: Path) -> None:
    """Of two visits of one patient, all scans are of the one that has more."""
    for visit, names in ((1, ("T1w", "T2w")), (2, ("T1w", "FLAIR", "T2w"))):
        for name in names:
            write(tmp_path / f"sub-01/ses-{visit}/anat/sub-01_ses-{visit}_{name}.nii.gz", visit)
    at = desk(tmp_path / "home")

    manifest = brought([tmp_path / "sub-01"], at)

    assert [*manifest["patients"]] == [at.patient("01")]
    scans = sorted(at.scans(at.patient("01")).iterdir())
    assert [path.stem for path in scans] == ["flair", "t1", "t2"]
    assert [np.asarray(load(path).dataobj).max() for path in scans] == [2, 2, 2]


def test_a_name_that_the_site_has_listed_since_is_taken(tmp_path: Path) -> None:
    """Verdicts that hang on the settings are not for ever."""
    write(tmp_path / "4711" / "mprage.nii", 1)
    assert not brought([tmp_path / "4711"], desk(tmp_path / "home"))["patients"]

    settings = "{crop: false, names: {mprage: t1}}"
    assert len(brought([tmp_path / "4711"], desk(tmp_path / "home", settings))["patients"]) == 1
