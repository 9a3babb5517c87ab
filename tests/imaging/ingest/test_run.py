"""From an export to a cohort, again and again, and killed on the way."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load

from imaging.ingest import run, workers
from imaging.ingest.build import build
from imaging.ingest.desk import Desk
from imaging.ingest.journal import CRASHED, opened_journal
from imaging.ingest.run import find, ingest
from imaging.sources import read_cohort
from protocol.errors import DataError, SettingsError
from protocol.recipe import Head
from tests.imaging.files import recipe
from tests.imaging.ingest.exports import (
    NAME,
    SHAPE,
    brought,
    changed,
    desk,
    patient,
    product,
    volume,
    write_export,
    write_mask,
    write_scan,
    zipped,
)

HEADS = {"tumour": Head("segmentation"), "grade": Head("classification")}
RECIPE = recipe("ingested", ("t1", "t2"), HEADS, size=(12, 10))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def whole(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A cohort of the export, not to be changed."""
    at = desk(tmp_path_factory.mktemp("home"))
    brought([export], at)
    return at


def verdicts(at: Desk) -> dict[str, int]:
    with opened_journal(at.folder) as journal:
        found = [row.verdict for row in journal.files()]
    return {verdict: found.count(verdict) for verdict in found}


def test_voxels_and_places_are_those_of_the_archive(whole: Desk) -> None:
    folder = whole.scans(whole.patient(patient(1)))

    for name, seed in (("t1", 1), ("t2", 101)):
        image = load(folder / f"{name}.nii")
        assert np.array_equal(np.asarray(image.dataobj), volume(seed).values)
        assert np.abs(image.affine - volume(seed).affine).max() < 1e-6


def test_a_recipe_trains_on_it_and_absent_is_absent(whole: Desk) -> None:
    cohort = read_cohort(whole.folder, RECIPE, None)

    assert len(cohort.patients) == 4
    assert not any(NAME in name for name in cohort.patients)
    assert cohort.cases.present.sum(0).tolist() == [4 * SHAPE[2], 3 * SHAPE[2]]
    assert cohort.cases.labelled["grade"].all()
    assert cohort.cases.targets["tumour"].sum() == 4 * 18


def test_a_second_run_reads_nothing_and_changes_nothing(
    export: Path, whole: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = product(whole.folder)
    broken = workers.Job(lambda *_: pytest.fail("read again"), lambda *_: None)
    monkeypatch.setattr(workers, "JOBS", {"admit": broken, "build": broken})

    brought([export], whole)

    assert product(whole.folder) == before


def test_what_is_new_is_read_and_only_who_has_changed_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late series, and a file that was exported anew; the version counts up."""
    write_export(tmp_path / "export", patients=2)
    at = desk(tmp_path / "home")
    first = brought([tmp_path / "export"], at)
    built = list[str]()
    job = workers.Job(lambda desk, each: (built.append(each), build(desk, each))[1], lambda *_: None)
    monkeypatch.setitem(workers.JOBS, "build", job)

    write_scan(tmp_path / "export" / "pacs", 2, "t2", seed=102)
    second = brought([tmp_path / "export"], at)

    assert (first["version"], second["version"]) == (1, 2)
    assert built == [at.patient(patient(2))]
    assert "t2" in second["patients"][built[0]]["scans"]["volumes"]


def test_a_file_that_now_may_identify_leaves_with_its_copy_and_its_scan(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "pacs", 1, "t1")
    write_scan(tmp_path / "pacs", 1, "t2")
    at = desk(tmp_path / "home")
    brought([tmp_path / "pacs"], at)

    changed(path, BurnedInAnnotation="YES")
    manifest = brought([tmp_path / "pacs"], at)

    stand_in = at.patient(patient(1))
    assert [*manifest["patients"][stand_in]["scans"]["volumes"]] == ["t2"]
    assert not (at.scans(stand_in) / "t1.nii").exists()
    assert len([*at.clean(stand_in).iterdir()]) == 1
    assert verdicts(at) == {"admitted": 1, "may_identify": 1}


def test_zipped_it_is_the_same_cohort(export: Path, whole: Desk, tmp_path: Path) -> None:
    """But for the names of the copies, which follow from paths."""
    at = desk(tmp_path / "home")
    (tmp_path / "home" / "key").write_bytes(whole.sources[0].read_bytes())
    at = desk(tmp_path / "home")
    archive = zipped(tmp_path / f"{NAME}.zip", export)

    manifest = brought([archive], at)

    scans = {name: data for name, data in product(whole.folder).items() if name.endswith(".nii")}
    assert {n: d for n, d in product(at.folder).items() if n.endswith(".nii") and ".clean" not in n} == {
        n: d for n, d in scans.items() if ".clean" not in n
    }
    assert len(manifest["patients"]) == 4
    assert not at.work.exists()


def test_one_bad_study_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a library raises over a patient is that patient's; the others are built."""
    write_export(tmp_path / "export", patients=3)
    (tmp_path / "export" / "pacs" / f"{NAME}.dcm").write_bytes(os.urandom(999))
    at = desk(tmp_path / "home")
    bad = at.patient(patient(2))

    def fragile(desk: Desk, each: str) -> object:
        if each == bad:
            raise ZeroDivisionError(NAME)
        return build(desk, each)

    monkeypatch.setattr("imaging.ingest.build.build", fragile)
    manifest = brought([tmp_path / "export"], at)

    assert len(manifest["patients"]) == 2
    assert verdicts(at)["not_dicom"] == 1
    assert "ZeroDivisionError while" in (at.folder / "quality.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "instant",
    [
        ("building", 1),
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (("reading", 1), ("reading", 5), ("building", 3))
        ),
    ],
    ids=str,
)
def test_killed_anywhere_the_next_run_ends_with_the_same_bytes(
    export: Path, whole: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: tuple[str, int]
) -> None:
    """SIGKILL, in a child, just after a piece."""
    monkeypatch.setattr(run, "FILES_A_PIECE", 1)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_bytes(whole.sources[0].read_bytes())
    at = desk(tmp_path / "home")

    def watch(what: str, done: int, total: int) -> None:
        if (what, done) == instant:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        ingest([export], at, watch=watch)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    brought([export], at)

    ours, theirs = product(at.folder), product(whole.folder)
    ours.pop("quality.html"), theirs.pop("quality.html")  # the cohorts' names
    assert ours == theirs


def test_a_verdict_of_the_moment_is_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that killed its reader, or a share that was away, is tried again."""
    write_scan(tmp_path / "pacs", 1, "t1")
    at = desk(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setitem(workers.JOBS, "admit", workers.Job(workers.crashed, workers.crashed))
        brought([tmp_path / "pacs"], at)
        assert verdicts(at) == {CRASHED: 1}

    brought([tmp_path / "pacs"], at)

    assert verdicts(at) == {"admitted": 1}


def test_two_runs_of_one_cohort_do_not_meet(whole: Desk, export: Path) -> None:
    with opened_journal(whole.folder), pytest.raises(SettingsError, match="another ingest"):
        brought([export], whole)


def test_a_disk_that_is_full_is_said_without_a_path(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no file is blamed: the next run reads it."""

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    at = desk(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setattr("imaging.ingest.admit.files.write", full)
        with pytest.raises(SettingsError, match="No space left") as caught:
            brought([export], at)
    assert ".clean" not in str(caught.value)
    assert verdicts(at) == {"table": 1}

    assert len(brought([export], at)["patients"]) == 4


def test_a_digest_tells_its_file_to_whoever_has_the_key(whole: Desk, export: Path, tmp_path: Path) -> None:
    path = write_mask(export / "labels", 1)

    assert find([export], whole, whole.pseudonyms.identifier("path", str(path))) == str(path)
    assert find([export], desk(tmp_path / "other"), whole.pseudonyms.identifier("path", str(path))) is None


def test_a_source_that_is_not_there_is_refused_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 sources") as caught:
        brought([tmp_path / NAME], desk(tmp_path / "home"))
    assert NAME not in str(caught.value)


def test_a_cohort_that_was_edited_is_refused(export: Path, tmp_path: Path) -> None:
    at = desk(tmp_path / "home")
    brought([export], at)
    path = next(at.folder.glob("*/t1.nii"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(DataError, match=r"1 of 12 files of the cohort are not as"):
        read_cohort(at.folder, RECIPE, None)
    brought([export], at, rebuild=True)
    read_cohort(at.folder, RECIPE, None)


def test_only_a_stand_in_becomes_a_folder(whole: Desk) -> None:
    """An empty one would be the cohort itself, which is removed when a patient is built."""
    for name in ("", "..", "A/../B", NAME):
        with pytest.raises(ValueError, match="stand-in"):
            whole.scans(name)
