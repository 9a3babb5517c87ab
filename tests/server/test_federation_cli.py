"""`consilium federation`: from an empty folder to members, as a coordinator types it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.home import SiteHome
from privacy.keys import read_pins
from privacy.membership import read_request
from protocol.errors import SettingsError, TrustError
from server.federation_cli import federation
from server.home import CoordinatorHome
from server.provision import kit_of
from tests.client.listener import closed_port
from tests.enrolment import asked


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome(tmp_path / "coordinator")


def run(home: CoordinatorHome, *words: str, typed: str = "") -> Result:
    environment = {"CONSILIUM_HOME": str(home.folder), "COLUMNS": "200"}
    return CliRunner().invoke(federation, [*words], env=environment, input=typed)


def said(home: CoordinatorHome, *words: str, typed: str = "") -> str:
    result = run(home, *words, typed=typed)
    assert result.exit_code == 0, result.exception
    return result.output


def founded(home: CoordinatorHome) -> None:
    said(home, "init", "brain", "--host", "localhost", "--port", str(closed_port()))
    said(home, "add", "north", "--contact", "it@north.example")
    said(home, "provision")


def fingerprint(site: SiteHome) -> str:
    return read_request(site.request.read_bytes()).fingerprint


def test_from_an_empty_folder_to_a_member(home: CoordinatorHome, tmp_path: Path) -> None:
    founded(home)
    assert kit_of(home, "north").fingerprint in said(home, "provision")
    assert "nothing to make" in said(home, "provision")
    assert "has a kit, is no member yet" in said(home, "list")
    north = asked(home, tmp_path, "north")
    text = said(home, "sign", str(north.request), typed=f"{fingerprint(north)}\n")
    assert f"{home.of('north').membership}: valid until" in text
    listed = said(home, "list")
    assert "it@north.example" in listed
    assert "member until" in listed
    assert "failed" not in said(home, "doctor")


def test_a_request_whose_fingerprint_is_not_the_one_heard_is_not_signed(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    founded(home)
    north = asked(home, tmp_path, "north")
    for heard in ("AAAA", kit_of(home, "north").fingerprint):
        result = run(home, "sign", str(north.request), "--fingerprint", heard)
        assert isinstance(result.exception, TrustError)
        assert fingerprint(north) not in str(result.exception)  # or it would be copied instead of heard
    assert run(home, "sign", str(north.request)).exit_code != 0  # nobody there to be asked
    assert read_pins(home.pins).sites == {}


def test_a_site_more_in_a_federation_that_lives(home: CoordinatorHome, tmp_path: Path) -> None:
    founded(home)
    north = asked(home, tmp_path, "north")
    said(home, "sign", str(north.request), "--fingerprint", fingerprint(north))
    before = home.of("north").membership.read_bytes()
    text = said(home, "add", "south")
    assert f"made {home.of('south').kit}" in text
    assert home.of("north").membership.read_bytes() == before
    south = asked(home, tmp_path, "south")
    text = said(home, "sign", str(south.request), "--fingerprint", fingerprint(south))
    assert "north need their newer membership.json" in text


def test_renewing_and_revoking(home: CoordinatorHome, tmp_path: Path) -> None:
    founded(home)
    north = asked(home, tmp_path, "north")
    said(home, "sign", str(north.request), "--fingerprint", fingerprint(north))
    certificate = home.server_certificate.read_bytes()
    assert "north" in said(home, "renew")
    assert "start the server again" in said(home, "renew", "--server")
    assert home.server_certificate.read_bytes() != certificate
    assert isinstance(run(home, "renew", "north", "--server").exception, SettingsError)
    assert "'north' is out: the server lets it connect no more" in said(home, "revoke", "north")
    assert "revoked on" in said(home, "list")
    assert set(json.loads(home.revoked.read_text())) == {"north"}
    assert isinstance(run(home, "revoke", "north").exception, SettingsError)


def test_a_doctor_that_finds_something_ends_in_21_and_says_what(home: CoordinatorHome) -> None:
    founded(home)
    home.key.chmod(0o644)
    result = run(home, "doctor")
    assert isinstance(result.exception, SettingsError)
    assert "coordinator.key" in str(result.exception)
    assert "chmod 600" in result.output


def test_a_request_that_is_not_there_is_named(home: CoordinatorHome, tmp_path: Path) -> None:
    founded(home)
    result = run(home, "sign", str(tmp_path / "request.json"), "--fingerprint", "x")
    assert isinstance(result.exception, TrustError)
    assert "request.json" in str(result.exception)
