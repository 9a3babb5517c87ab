"""`consilium site ingest`, as a hospital's engineer types it."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.cli import site
from client.home import SiteHome
from imaging.pseudonyms import read_pseudonyms
from protocol.errors import DataError, RecipeError, SettingsError
from tests.imaging.ingest.exports import write_scan


def run(home: Path, *words: object) -> Result:
    environment = {"CONSILIUM_HOME": str(home), "COLUMNS": "200"}
    return CliRunner().invoke(site, ["ingest", *map(str, words), "--workers", "1"], env=environment)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "pacs", 1, "t1")


def test_a_cohort_grows_under_its_name_and_a_digest_is_told(scan: Path, tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "home")
    first = run(home.folder, tmp_path / "pacs", "--cohort", "brain")
    write_scan(tmp_path / "pacs", 2, "t1")
    second = run(home.folder, tmp_path / "pacs", "--cohort", "brain")
    digest = read_pseudonyms(home.pseudonyms).identifier("path", str(scan))
    told = run(home.folder, tmp_path / "pacs", "--cohort", "brain", "--find", digest)

    assert first.exit_code == second.exit_code == told.exit_code == 0
    assert "cohort 'brain', version 1" in first.output
    assert "version 2" in second.output
    assert "2 of 2" in second.output
    assert told.output.strip() == str(scan)
    assert home.pseudonyms.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--cohort", "../elsewhere"), RecipeError),
        (("--cohort", "brain", "--settings", "missing.yaml"), SettingsError),
        (("--cohort", "brain", "--find", "0" * 16), DataError),
        (("--cohort", "brain", "--since", "2020-01-01"), DataError),
        (("pacs:main", "--cohort", "brain", "--since", "2020-01-01"), SettingsError),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    scan: Path, tmp_path: Path, words: tuple[str, ...], error: type[Exception]
) -> None:
    result = run(tmp_path / "home", tmp_path / "pacs", *words)

    assert isinstance(result.exception, error)
    assert not (tmp_path / "home" / "cohorts" / "brain" / "manifest.json").exists()
    assert not (tmp_path / "home" / "elsewhere").exists()


def test_of_an_archive_not_everything_is_asked_for(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "home")
    home.folder.mkdir()
    home.pacs.write_text("main: {url: 'https://pacs.example/dicom-web'}")

    result = run(home.folder, "pacs:main", "--cohort", "brain", "--modality", "MR")

    assert isinstance(result.exception, DataError)
    assert "all that the hospital has" in str(result.exception)


def test_a_lost_key_is_not_replaced_where_a_cohort_was_made_with_it(scan: Path, tmp_path: Path) -> None:
    """Neither for that cohort nor for another: a patient's two names could be trained and tested on."""
    home = SiteHome(tmp_path / "home")
    run(home.folder, tmp_path / "pacs", "--cohort", "brain")
    key = home.pseudonyms.read_bytes()
    home.pseudonyms.unlink()
    for cohort in ("brain", "chest"):
        result = run(home.folder, tmp_path / "pacs", "--cohort", cohort)
        assert isinstance(result.exception, SettingsError)
        assert "restore it from a backup" in str(result.exception)
        assert not home.pseudonyms.exists()

    home.pseudonyms.write_bytes(key)
    assert "version 1" in run(home.folder, tmp_path / "pacs", "--cohort", "brain").output
