"""From three hospitals' archives to one model: DICOM, ingest, a federated round."""

import shutil
from pathlib import Path

import pytest

from server.record import read_record
from sim.phantom import write_phantom
from sim.phantom_dicom import write_archive
from tests.imaging.ingest.exports import brought, desk, product
from tests.sim.command import RECIPE, done

pytestmark = pytest.mark.slow

SITES, PATIENTS = 3, 4


def write_labels(truth: Path, target: Path) -> None:
    """Label maps and grades under the numbers by which the archive knows its patients."""
    for patient in sorted(path for path in truth.iterdir() if path.is_dir()):
        folder = target / f"{truth.name}-{patient.name}"
        folder.mkdir(parents=True)
        shutil.copy(patient / "tumour.nii.gz", folder)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each site ingests its own archive under its own key."""
    root = tmp_path_factory.mktemp("hospitals")
    write_phantom(root / "truth", sites=SITES, patients=PATIENTS, size=16)
    write_archive(root / "truth", root / "archive")
    for number in range(1, SITES + 1):
        name = f"site_{number}"
        write_labels(root / "truth" / name, root / "labels" / name)
        at = desk(root / name, "{}")
        brought([root / "archive" / name, root / "labels" / name], at)
        shutil.copytree(at.folder, root / "cohorts" / name)
    return root / "cohorts"


def test_a_round_over_three_ingested_hospitals_finishes(cohorts: Path, tmp_path: Path) -> None:
    small = ["rounds=1", "training.steps=2", "training.batch=4", "model.channels=[8,8]"]
    words = ["sim", "run", RECIPE, "data=ingested", "data.size=[16,16]", *small]

    done(*words, "--data", cohorts, "--out", tmp_path, "--tracking", "off", "--engine", "inprocess")

    (folder,) = tmp_path.glob("phantom-*")
    record = read_record(folder)
    assert [site.status for site in record.rounds[0].sites] == ["accepted"] * SITES
    patterns = [set(site.patterns) for site in record.sites]
    assert patterns == [{"flair+t1+t1c+t2"}, {"t1+t1c+t2"}, {"flair+t1+t2"}]


def test_no_patients_number_is_in_what_was_made(cohorts: Path) -> None:
    """Nor in a file's name; and two hospitals' names for equal numbers are not equal."""
    everything = product(cohorts)

    for word in (b"patient_00", b"PHANTOM", b"19500101", b"20200101"):
        assert not [name for name, data in everything.items() if word in data or word in name.encode()]
    patients = [{path.name for path in site.iterdir() if path.is_dir()} for site in sorted(cohorts.iterdir())]
    assert len(set.union(*patients)) == SITES * PATIENTS + 1  # and `.clean`
