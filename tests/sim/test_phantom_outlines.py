"""What the phantom's annotators drew, through ingest: what comes back is the truth."""

import re
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load

from sim import phantom_outlines as module
from sim.phantom import lacking, write_phantom
from sim.phantom_dicom import VENDORS, write_archive
from sim.phantom_outlines import FOLDER, write_outlines
from tests.imaging.identified import faults
from tests.imaging.ingest.exports import brought, desk

PATIENT = "patient_001"
SETTINGS = '{crop: false, segments: {tumour: [[Tumour, "SCT:108369006"]]}}'


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals, one a vendor."""
    root = tmp_path_factory.mktemp("outlines")
    write_phantom(root / "truth", patients=1, size=24)
    write_archive(root / "truth", root / "dicom")
    write_outlines(root / "truth", root / "dicom")
    return root


@pytest.mark.parametrize("site", range(len(VENDORS)), ids=VENDORS)
def test_scans_places_and_labels_come_back(federation: Path, tmp_path: Path, site: int) -> None:
    """Voxel for voxel, and the affine to a thousandth of a mm, from an archive without one NIfTI file."""
    at = desk(tmp_path / "home", SETTINGS)
    name = f"site_{site + 1}"

    brought([federation / "dicom" / name], at)

    scans, truth = at.scans(at.patient(f"{name}-{PATIENT}")), federation / "truth" / name / PATIENT
    names = {"flair", "t1", "t1c", "t2", "tumour"} - set(lacking(site, 0))
    assert {path.stem for path in scans.iterdir()} == names
    for each in names:
        found, drawn = load(scans / f"{each}.nii"), load(truth / f"{each}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(drawn.dataobj)), each
        assert np.abs(found.affine - drawn.affine).max() < 1e-3


def test_contours_that_are_shifted_by_a_voxel_are_caught(
    federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, shift = module.contours, np.array((8.0, 0.0, 0.0))
    monkeypatch.setattr(module, "contours", lambda volume: (points + shift for points in right(volume)))
    write_archive(federation / "truth", tmp_path / "dicom")
    write_outlines(federation / "truth", tmp_path / "dicom")
    (tmp_path / "truth").symlink_to(federation / "truth")

    with pytest.raises(AssertionError, match="tumour"):
        test_scans_places_and_labels_come_back(tmp_path, tmp_path, VENDORS.index("ge"))


@pytest.mark.parametrize("site", [1, 2])
def test_an_independent_judge_misses_no_more_than_references(federation: Path, site: int) -> None:
    """One SEG, one RTSTRUCT: they name the series that they were drawn on, not each of its files."""
    path = federation / "dicom" / f"site_{site}" / PATIENT / FOLDER / "1.dcm"

    assert not [each for each in faults(path) if not re.search("Referenced|ContourImage", each)]
