"""From a real PACS to a cohort, by each way; it is killed, it refuses, it loses a file."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from client.cli import site
from client.doctor import archives
from client.home import SiteHome
from imaging.ingest.desk import Desk
from imaging.ingest.journal import opened_journal
from protocol.errors import PacsError
from sim.phantom_dicom import write_series
from tests.deploy.orthanc import LOGIN, Orthanc, needed, orthanc
from tests.imaging.ingest.exports import (
    NAME,
    brought,
    changed,
    patient,
    product,
    volume,
    write_export,
    write_scan,
)
from tests.imaging.ingest.test_canaries import leaks

pytestmark = [pytest.mark.deploy, needed]
WAYS = ("web", "get", "move")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, images of several vendors' shapes, canaries where an archive looks."""
    root = write_export(tmp_path_factory.mktemp("export"))
    for number, vendor in enumerate(("siemens", "ge", "philips"), 1):
        write_series(root / "pacs" / vendor, volume(40 + number), "flair", vendor, patient(number))
    for number, path in enumerate(sorted(each for each in (root / "pacs").rglob("*") if each.is_file())):
        changed(path, StudyDescription=NAME, OperatorsName=NAME, AccessionNumber=f"{NAME}-A{number % 2}")
    return root


@pytest.fixture(scope="module")
def pacs(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        found.store(export / "pacs")
        yield found


def home_of(folder: Path, pacs: Orthanc, login: str = LOGIN) -> SiteHome:
    """A site whose pacs.yaml knows it."""
    home = SiteHome(folder / "home")
    home.folder.mkdir()
    (home.folder / "pacs.login").write_text(login)
    (home.folder / "pacs.login").chmod(0o600)
    home.pacs.write_text(yaml.safe_dump(pacs.settings()))
    home.ingest.write_text("crop: false")
    return home


@pytest.fixture
def home(tmp_path: Path, pacs: Orthanc) -> SiteHome:
    return home_of(tmp_path, pacs)


def words(home: SiteHome, source: str, *more: object) -> list[str]:
    """The command line."""
    return [
        "ingest",
        source,
        "--cohort",
        "brain",
        "--home",
        str(home.folder),
        "--workers",
        "1",
        *map(str, more),
    ]


def run(home: SiteHome, source: str, *more: object) -> Result:
    return CliRunner().invoke(site, words(home, source, *more), env={"COLUMNS": "200"})


def desk(home: SiteHome) -> Desk:
    folder = home.cohorts / "brain"
    return Desk.at(str(folder.resolve()), str(home.pseudonyms), str(home.ingest))


def scans(at: Desk) -> dict[str, bytes]:
    return {
        name: data for name, data in product(at.folder).items() if name.endswith((".nii", "manifest.json"))
    }


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_cohort_of_the_files_and_nobody_is_named(
    export: Path, home: SiteHome, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit, manifest and all; a second run fetches nothing."""
    with caplog.at_level(logging.DEBUG):
        result = run(
            home, f"pacs:{way}", "--since", "2019-12-31", "--until", "2020-01-01", "--modality", "MR"
        )
    assert result.exit_code == 0, (result.output, result.exception)
    at = desk(home)
    assert leaks(home.folder, result.output + caplog.text) == []
    assert "studies" in result.output

    other = SiteHome(tmp_path / "other")
    other.folder.mkdir()
    for name in ("pseudonyms.key", "ingest.yaml"):
        (other.folder / name).write_bytes((home.folder / name).read_bytes())
    brought([export / "pacs"], desk(other))
    found = {name: data for name, data in scans(at).items() if ".clean" not in name}
    assert found == {name: data for name, data in scans(desk(other)).items() if ".clean" not in name}
    assert len(found) == 4 + 3 + 3 + 1

    assert "version 1" in run(home, f"pacs:{way}", "--since", "2019-12-31", "--modality", "MR").output


@pytest.mark.parametrize("way", WAYS)
def test_lists_of_patients_and_of_accession_numbers_are_kept_to(
    home: SiteHome, tmp_path: Path, way: str
) -> None:
    patients, accessions = tmp_path / "patients.txt", tmp_path / "accessions.txt"
    patients.write_text(f"patient\n{patient(1)}\n{patient(4)}\n")
    accessions.write_text(f"{NAME}-A0\n{NAME}-A1\n")

    result = run(
        home, f"pacs:{way}", "--patients", patients, "--accessions", accessions, "--since", "2020-01-01"
    )

    assert result.exit_code == 0, result.exception
    with opened_journal(desk(home).folder) as journal:
        found = {*journal.patients()}
    assert found <= {desk(home).patient(patient(number)) for number in (1, 4)}
    assert found
    assert leaks(home.folder, result.output) == []


@pytest.mark.parametrize("way", ["web", "move"])
def test_killed_it_goes_on_and_ends_with_the_same_cohort(
    home: SiteHome, tmp_path: Path, pacs: Orthanc, way: str
) -> None:
    """SIGKILL while images come; what lies in the spool then is not fetched again."""
    command = [
        sys.executable,
        "-m",
        "consilium",
        "site",
        *words(home, f"pacs:{way}", "--since", "2020-01-01"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    spool = home.cohorts / "brain" / ".spool"
    try:
        while process.poll() is None and not [*spool.glob("*/*")]:
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    assert run(home, f"pacs:{way}", "--since", "2020-01-01").exit_code == 0
    (tmp_path / "whole").mkdir()
    other = home_of(tmp_path / "whole", pacs)
    other.pseudonyms.write_bytes(home.pseudonyms.read_bytes())
    assert run(other, "pacs:web", "--since", "2020-01-01").exit_code == 0

    found = [{n: d for n, d in scans(desk(each)).items() if ".clean" not in n} for each in (home, other)]
    assert found[0] == found[1]
    assert not spool.exists()


def is_image(path: Path) -> bool:
    return path.read_bytes()[128:132] == b"DICM"


def test_an_image_that_it_has_lost_is_told_and_the_others_are_used(tmp_path: Path) -> None:
    """Its file is gone from its disk; when it is there again, a second run fetches it alone."""
    with orthanc(tmp_path / "orthanc", {"MaximumStorageCacheSize": 0}) as pacs:
        write_scan(tmp_path / "pacs", 1, "t1")
        write_scan(tmp_path / "pacs", 2, "t1")
        pacs.store(tmp_path / "pacs")
        files = [path for path in (pacs.folder / "db").rglob("*") if re.fullmatch("[0-9a-f-]{36}", path.name)]
        lost = next(path for path in files if is_image(path) and patient(2).encode() in path.read_bytes())
        data = lost.read_bytes()
        lost.unlink()
        for way in WAYS:
            (tmp_path / way).mkdir()
            home = home_of(tmp_path / way, pacs)
            result = run(home, f"pacs:{way}", "--since", "2020-01-01")
            assert result.exit_code == 0, result.exception
            assert "1 of 1" in result.output
            report = (home.cohorts / "brain" / "quality.html").read_text()
            assert "not_sent" in report, way
            assert NAME not in report

        lost.write_bytes(data)
        for way in WAYS:
            assert (
                "2 of 2"
                in run(SiteHome(tmp_path / way / "home"), f"pacs:{way}", "--since", "2020-01-01").output
            )


def test_a_wrong_login_and_a_wrong_title_are_refused_with_a_remedy(tmp_path: Path, pacs: Orthanc) -> None:
    home = home_of(tmp_path, pacs, login="reader:guess")
    settings = pacs.settings(calling="STRANGER")
    settings["web"].pop("calling")
    home.pacs.write_text(yaml.safe_dump(settings))

    for way in WAYS:
        result = run(home, f"pacs:{way}", "--since", "2020-01-01")
        assert isinstance(result.exception, PacsError), result.exception
        assert "guess" not in str(result.exception)
    checks = {check.what: check for check in archives(home.pacs)}
    assert {check.state for check in checks.values()} == {"failed"}
    assert "login" in checks["PACS web"].remedy
    assert "STRANGER" in checks["PACS get"].found + checks["PACS get"].remedy


def test_the_doctor_asks_each_archive(home: SiteHome) -> None:
    checks = [*archives(home.pacs)]

    assert [check.state for check in checks] == ["ok"] * 3, checks
