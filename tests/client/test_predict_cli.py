"""`site predict` from the command to the files, and what it never says."""

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from nibabel.nifti1 import load as load_nifti
from pydicom import dcmread
from typer.testing import CliRunner

import consilium
from client import predict_files
from imaging.annotations import read_annotations
from imaging.series import collect
from models.catalogue import build_model
from models.exported import write_model
from models.flat import Flat
from protocol.errors import DataError, SettingsError
from protocol.recipe import Head, Modality, Part, Recipe, recipe_hash
from sim.phantom_dicom import write_series
from tests.imaging import studies

RECIPE = Recipe(
    "tiny",
    {"flair": Modality(), "t1": Modality()},
    {
        "tumour": Head("segmentation", 1, Part("dice_ce")),
        "grade": Head("classification", 1, Part("cross_entropy")),
    },
    Part("nifti", {"size": (16, 16)}),
    Part("parallel_unet", {"channels": (4, 8)}),
)
NAME = "DOE-JANE-1961"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a study in a folder that is called as its patient."""
    root = tmp_path_factory.mktemp("predict")
    write_model(root / "model", RECIPE, Flat(build_model(RECIPE)).vectors)
    write_series(root / NAME / "1", studies.scan(studies.OBLIQUE), "flair", "siemens", NAME)
    (root / NAME / "1" / "notes.txt").write_text("not DICOM")
    return root


def run(place: Path, *arguments: object) -> tuple[str, BaseException | None]:
    """Run the command; return what it printed and how it ended."""
    done = CliRunner().invoke(consilium.cli, ["site", "predict", str(place / "model"), *map(str, arguments)])
    return done.output, done.exception


@pytest.fixture(scope="module")
def written(place: Path) -> tuple[Path, str]:
    """What is written of the study, and what was printed."""
    output, error = run(place, place / NAME, "--out", place / "out")
    assert error is None, error
    return place / "out" / "study-1", output


def test_all_files_say_the_same(place: Path, written: tuple[Path, str]) -> None:
    folder, _ = written
    names = {"tumour.seg.dcm", "report.sr.dcm", "tumour.nii.gz", "tumour.png", "prediction.json"}
    assert {path.name for path in folder.iterdir()} == names
    nifti = load_nifti(folder / "tumour.nii.gz")
    labels = np.asarray(nifti.dataobj)
    np.testing.assert_allclose(nifti.affine, studies.OBLIQUE, atol=1e-4)
    (stack,) = collect((place / NAME / "1").glob("*.dcm"), studies.never)
    (found,) = read_annotations(folder / "tumour.seg.dcm", stack)
    np.testing.assert_array_equal(found.mask, labels == 1)
    told = json.loads((folder / "prediction.json").read_text())
    volume = told["found"]["tumour"]["volume_mm3"]["tumour"]
    assert volume == pytest.approx(24.0 * labels.sum())
    report = hd.sr.srread(folder / "report.sr.dcm").content
    (region,) = report.get_volumetric_roi_measurement_groups()
    assert float(region.get_measurements()[0].value) == pytest.approx(volume)


def test_model_privacy_and_modalities_stand_beside_the_result(written: tuple[Path, str]) -> None:
    folder, output = written
    told = json.loads((folder / "prediction.json").read_text())
    assert told["model"]["recipe_sha256"] == recipe_hash(RECIPE)
    assert told["model"]["privacy"].startswith("None. The model was trained without differential privacy")
    assert (list(told["used"]), list(told["absent"])) == (["flair"], ["t1"])
    segment = dcmread(folder / "tumour.seg.dcm").SegmentSequence[0]
    assert recipe_hash(RECIPE) in segment.SegmentDescription
    assert "used flair" in output
    assert "absent t1: the study has no series of it" in output
    assert "1 not_dicom" in output


def test_the_patient_is_in_the_dicom_files_and_nowhere_else(written: tuple[Path, str]) -> None:
    folder, output = written
    assert NAME not in output
    for path in folder.iterdir():
        assert (NAME.encode() in path.read_bytes()) == (path.suffix == ".dcm"), path.name
        assert NAME not in path.name


def test_only_the_owner_may_look(written: tuple[Path, str]) -> None:
    assert stat.S_IMODE(written[0].stat().st_mode) == 0o700


def test_what_is_there_stays(place: Path, written: tuple[Path, str]) -> None:
    folder, _ = written
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output, error = run(place, place / NAME, "--out", place / "out")
    assert isinstance(error, DataError)
    assert "is there already and stays" in output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_one_bad_study_does_not_stop_the_next_and_is_counted(place: Path, tmp_path: Path) -> None:
    write_series(tmp_path / NAME / "1", studies.scan(studies.AXIAL), "t2", "siemens", NAME)
    output, error = run(place, tmp_path / NAME, place / NAME, "--out", tmp_path / "out")
    assert isinstance(error, DataError)
    assert "1 of 2 studies were not predicted" in str(error)
    assert re.search(r"study-1: none of the model's modalities is there .*holds t2", output)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study-2"]
    assert NAME not in output + str(error)


def test_a_model_of_a_cohort_sees_scans_as_its_cohort_has_them(place: Path, tmp_path: Path) -> None:
    """By the home's ingest.yaml; another one is not that of the cohort, and that is said."""
    recipe = replace(RECIPE, data=Part("ingested", {"size": (16, 16)}))
    write_model(tmp_path / "model", recipe, Flat(build_model(recipe)).vectors)
    home = tmp_path / "home"
    home.mkdir()
    (home / "ingest.yaml").write_text("spacing_mm: [4, 4, 4]", encoding="utf-8")
    (home / "other.yaml").write_text("spacing_mm: [4, 4, 8]", encoding="utf-8")
    words = ["ingest", str(place / NAME), "--cohort", "brain", "--home", str(home), "--workers", "1"]
    assert CliRunner().invoke(consilium.cli, ["site", *words]).exit_code == 0

    output, error = run(tmp_path, place / NAME, "--home", home, "--out", tmp_path / "out")
    other, _ = run(
        tmp_path, place / NAME, "--home", home, "--settings", home / "other.yaml", "--out", tmp_path / "2"
    )

    assert error is None
    assert "made ready as for cohort brain" in output
    assert "settings that no cohort here was made with" in other
    told = json.loads((tmp_path / "out" / "study-1" / "prediction.json").read_text())
    assert told["used"]["flair"]["steps"] == ["reference", "resampled linearly"]
    labels = load_nifti(tmp_path / "out" / "study-1" / "tumour.nii.gz")
    np.testing.assert_allclose(labels.affine, studies.OBLIQUE, atol=1e-4)


def test_nothing_is_left_of_what_was_not_written_to_its_end(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for ending, error in ((full, SettingsError), (_interrupted, SystemExit)):
        monkeypatch.setattr(predict_files, "draw", ending)
        _, caught = run(place, place / NAME, "--out", tmp_path / "out")
        assert isinstance(caught, error), caught
        assert not list((tmp_path / "out").iterdir())


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_traceback_shows_no_variables() -> None:
    """They would be headers here, and keys elsewhere."""
    assert consilium.cli.pretty_exceptions_show_locals is False
