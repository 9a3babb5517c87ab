"""The phantom as an archive of DICOM: what is read back is what was drawn."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load
from pydicom import dcmread
from typer.testing import CliRunner

import consilium
from imaging.dicom import read_header
from imaging.modality import classify
from imaging.series import Stack, collect, read_volume
from imaging.volume import Volume
from protocol.errors import DicomError
from sim.phantom import MODALITIES, lacking, write_phantom
from sim.phantom_dicom import VENDORS, write_archive, write_series
from sim.phantom_outlines import FOLDER

PATIENT = "patient_001"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals, as NIfTI in `truth` and as DICOM in `dicom`."""
    root = tmp_path_factory.mktemp("archive")
    write_phantom(root / "truth", patients=1, size=16)
    write_archive(root / "truth", root / "dicom")
    return root


def never(path: Path, error: DicomError) -> None:
    """No file may be refused."""
    raise AssertionError(path, error)


def read(folder: Path) -> list[Stack]:
    """All stacks under a folder."""
    return collect(sorted(path for path in folder.rglob("*") if path.is_file()), never)


@pytest.mark.parametrize("site", range(4))
def test_voxels_affine_and_modality_come_back_exactly(archive: Path, site: int) -> None:
    """Four vendors' shapes, one a hospital; the modality is told by the header alone."""
    place, found = f"site_{site + 1}/{PATIENT}", dict[str, Volume]()
    for stack in read(archive / "dicom" / place):
        header = read_header(stack.frames[0].path)
        found[classify(header, slices=len(stack.frames)).name] = read_volume(stack)

    assert found.keys() == set(MODALITIES) - set(lacking(site, 0))
    for name, volume in found.items():
        truth = load(archive / "truth" / place / f"{name}.nii.gz")
        assert np.array_equal(volume.values, np.asarray(truth.dataobj))
        assert np.abs(volume.affine - truth.affine).max() < 1e-6


def test_two_patients_have_no_identifier_in_common(archive: Path) -> None:
    """And two series of one patient are of one study and of one frame of reference."""
    first, other = (read(archive / "dicom" / f"site_{n}" / PATIENT) for n in (1, 2))
    headers = [read_header(stack.frames[0].path) for stack in (*first, *other)]
    studies = [str(header.StudyInstanceUID) for header in headers]
    frames = [str(header.FrameOfReferenceUID) for header in headers]

    assert len({str(header.SeriesInstanceUID) for header in headers}) == len(headers)
    assert len(set(studies)) == len(set(frames)) == 2
    assert len({str(header.PatientID) for header in headers}) == 2


def test_the_same_scan_is_written_byte_for_byte_again(archive: Path, tmp_path: Path) -> None:
    write_archive(archive / "truth", tmp_path)

    written = [path for path in archive.joinpath("dicom").rglob("*") if path.is_file()]
    assert len(written) > 80
    assert all((tmp_path / p.relative_to(archive / "dicom")).read_bytes() == p.read_bytes() for p in written)


@pytest.mark.parametrize("vendor", VENDORS)
def test_pydicom_reads_the_files_by_itself(tmp_path: Path, vendor: str) -> None:
    """They are DICOM to others too; values are the stored ones here."""
    volume = Volume(np.full((4, 5, 3), 7, np.float32), np.eye(4))
    write_series(tmp_path, volume, "t2", vendor, "1")

    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        stored = dataset.pixel_array * dataset.get("RescaleSlope", 1) + dataset.get("RescaleIntercept", 0)
        assert (stored == 7).all()


def test_the_command_line_writes_an_archive_beside_the_truth(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        consilium.cli,
        ["sim", "phantom", f"{tmp_path}/truth", "--sites=1", "--patients=1", f"--dicom={tmp_path}/dicom"],
    )

    assert done.exit_code == 0, done.output
    folders = sorted(path.name for path in (tmp_path / "dicom" / "site_1" / PATIENT).iterdir())
    assert folders == ["001", "002", "003", "004", FOLDER]


def test_what_cannot_be_stored_exactly_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        write_series(tmp_path, Volume(np.full((4, 5, 3), 0.5, np.float32), np.eye(4)), "t2", "ge", "1")
