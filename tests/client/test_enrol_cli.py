"""`consilium site join|doctor`, as a hospital's engineer types it."""

import shlex
import zipfile
from pathlib import Path

import click
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from client.cli import site
from client.home import SiteHome
from client.machine import read_machine
from privacy.kit import README, read_kit
from privacy.membership import read_request
from protocol.errors import SettingsError, TrustError
from server.enrol import sign
from server.home import CoordinatorHome
from tests.enrolment import founded


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorHome:
    return founded(tmp_path_factory.mktemp("brain"), "north")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    (tmp_path / "scans" / "0001").mkdir(parents=True)
    return SiteHome(tmp_path / "north")


def run(home: SiteHome, *words: object, typed: str = "") -> Result:
    environment = {"CONSILIUM_HOME": str(home.folder), "COLUMNS": "200"}
    return CliRunner().invoke(site, [*map(str, words)], env=environment, input=typed)


def begun(coordinator: CoordinatorHome, home: SiteHome, *words: object, typed: str = "") -> Result:
    scans = home.folder.parent / "scans"
    return run(home, "join", coordinator.of("north").kit, "--data", scans, *words, typed=typed)


def heard(coordinator: CoordinatorHome) -> str:
    return read_kit(coordinator.of("north").kit.read_bytes()).fingerprint


def test_from_a_kit_to_a_member(coordinator: CoordinatorHome, home: SiteHome) -> None:
    result = begun(coordinator, home, "--device", "cuda", typed=f"{heard(coordinator).lower()}\n")
    assert result.exit_code == 0, result.exception
    assert read_request(home.request.read_bytes()).fingerprint in result.output
    assert (read_machine(home).device, read_machine(home).data) == ("cuda", home.folder.parent / "scans")
    sign(coordinator, home.request.read_bytes())
    result = run(home, "join", coordinator.of("north").membership)
    assert result.exit_code == 0, result.exception
    assert "member of 'brain' until" in result.output
    again = begun(coordinator, home, "--fingerprint", heard(coordinator))
    assert "stays as it is" in again.output


def test_a_kit_whose_fingerprint_is_not_the_one_heard_makes_nothing(
    coordinator: CoordinatorHome, home: SiteHome
) -> None:
    result = begun(coordinator, home, "--fingerprint", "AAAA-BBBB")
    assert isinstance(result.exception, TrustError)
    assert heard(coordinator) not in str(result.exception)  # or it would be copied instead of heard
    assert begun(coordinator, home).exit_code != 0  # nobody there to be asked
    assert not home.folder.exists()


def test_it_asks_where_the_scans_are(coordinator: CoordinatorHome, home: SiteHome) -> None:
    kit = coordinator.of("north").kit
    result = run(home, "join", kit, "--fingerprint", heard(coordinator))
    assert isinstance(result.exception, SettingsError)
    assert "--data FOLDER" in str(result.exception)
    assert not home.folder.exists()


def test_the_commands_in_a_kit_s_readme_are_commands(coordinator: CoordinatorHome) -> None:
    with zipfile.ZipFile(coordinator.of("north").kit) as archive:
        text = archive.read(README).decode()
    commands = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("consilium site ")]
    group = typer.main.get_command(site)
    assert isinstance(group, click.Group)
    assert [command[2] for command in commands] == ["join", "join", "doctor"]
    for _, _, verb, *words in commands:
        group.commands[verb].make_context(verb, words)


def test_a_file_that_is_not_there_or_is_something_else(home: SiteHome, tmp_path: Path) -> None:
    assert isinstance(run(home, "join", tmp_path / "kit.zip").exception, SettingsError)
    (tmp_path / "notes.txt").write_text("x")
    assert isinstance(run(home, "join", tmp_path / "notes.txt").exception, SettingsError)


def test_a_doctor_that_finds_something_ends_in_21_and_says_what(
    coordinator: CoordinatorHome, home: SiteHome
) -> None:
    begun(coordinator, home, "--fingerprint", heard(coordinator))
    result = run(home, "doctor")
    assert isinstance(result.exception, SettingsError)
    assert "membership" in str(result.exception)
    assert "send request.json to the coordinator" in result.output
