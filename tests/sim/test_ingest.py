"""From three hospitals' archives to one model and back: DICOM, ingest, a federated round, DICOM SEG."""

import json
import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from nibabel.loadsave import load

from server.record import read_record
from sim.phantom import write_phantom
from sim.phantom_dicom import write_archive
from tests.imaging.ingest.exports import brought, desk, product
from tests.imaging.test_segmentation import points
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


@pytest.fixture(scope="module")
def trained(cohorts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one round over the three."""
    small = ["rounds=1", "training.steps=2", "training.batch=4", "model.channels=[8,8]"]
    words = ["sim", "run", RECIPE, "data=ingested", "data.size=[16,16]", *small]
    out = tmp_path_factory.mktemp("runs")
    done(*words, "--data", cohorts, "--out", out, "--tracking", "off", "--engine", "inprocess")
    (folder,) = out.glob("phantom-*")
    return folder


def test_a_round_over_three_ingested_hospitals_finishes(trained: Path) -> None:
    record = read_record(trained)
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


@pytest.mark.parametrize(
    ("site", "used"),
    [("site_1", ["flair", "t1", "t1c", "t2"]), ("site_2", ["t1", "t1c", "t2"])],
)
def test_its_model_outlines_a_study_of_the_archive_as_dicom(
    cohorts: Path, trained: Path, tmp_path: Path, site: str, used: list[str]
) -> None:
    """highdicom, plain arithmetic on the file's bits, and NIfTI agree on what it outlined."""
    study = min((cohorts.parent / "archive" / site).iterdir())
    home = cohorts.parent / site
    said = done("site", "predict", trained, study, "--home", home, "--out", tmp_path / "out")
    folder = tmp_path / "out" / "study-1"

    (head,) = (path.name.partition(".")[0] for path in folder.glob("*.seg.dcm"))
    outlined = int(np.count_nonzero(load(folder / f"{head}.nii.gz").get_fdata()))
    by_highdicom = hd.seg.segread(folder / f"{head}.seg.dcm").get_volume(combine_segments=True).array
    by_bits = sum(map(len, points(folder / f"{head}.seg.dcm").values()))
    assert np.count_nonzero(by_highdicom) == by_bits == outlined
    assert [*json.loads((folder / "prediction.json").read_text())["used"]] == used
    assert "patient_" not in said
    assert "PHANTOM" not in said
