"""Everything is made once; what is there already stays as it is."""

import shutil
from pathlib import Path

import pytest

from privacy.certificates import belongs, issued_by, read_certificate
from privacy.keys import make_signer, read_pins
from protocol.errors import SettingsError, TrustError
from server.federation import add_site, new_federation
from server.home import CoordinatorHome
from server.provision import kit_of, provision, renew_server
from tests.enrolment import crashes, founded


def contents(home: CoordinatorHome) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}


def test_a_second_call_makes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    home = founded(tmp_path, "north", "south")
    before = contents(home)
    assert provision(home) == []
    assert contents(home) == before


def test_the_parts_fit_together(tmp_path: Path) -> None:
    home = founded(tmp_path, "north", host="10.0.0.7")
    assert issued_by(home.server_certificate, home.ca)
    assert belongs(home.server_key, home.server_certificate)
    assert read_certificate(home.server_certificate).hosts == ("10.0.0.7", "127.0.0.1")
    assert read_pins(home.pins).coordinator == make_signer(home.key).public
    kit = kit_of(home, "north")
    assert (kit.authority, kit.facts.server) == (home.ca.read_bytes(), "10.0.0.7:25999")
    assert kit.facts.coordinator == make_signer(home.key).public.hex()


def test_what_is_secret_is_its_owner_s_alone(tmp_path: Path) -> None:
    home = founded(tmp_path, "north")
    secret = {home.key, home.ca_key, home.server_key}
    assert {path for path in contents(home) if path.stat().st_mode & 0o077 == 0} == secret


def test_a_site_that_is_added_later_gets_a_kit_and_the_others_keep_theirs(tmp_path: Path) -> None:
    home = founded(tmp_path, "north")
    before = contents(home)
    add_site(home.federation, "south", "")
    assert provision(home) == [home.of("south").kit]
    after = contents(home)
    assert {path for path in after if after[path] != before.get(path)} == {
        home.federation,
        home.of("south").kit,
    }


def test_killed_anywhere_it_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had been made before the crash is not made again; in the end everything fits together."""
    new_federation(tmp_path / "federation.yaml", "brain", "a.example")
    add_site(tmp_path / "federation.yaml", "north", "")
    died = 0

    def begun(number: int) -> list[Path]:
        home = CoordinatorHome(tmp_path / str(number))
        home.folder.mkdir()
        shutil.copy(tmp_path / "federation.yaml", home.federation)
        return provision(home)

    for died, _ in enumerate(crashes(monkeypatch, begun)):
        home = CoordinatorHome(tmp_path / str(died))
        before = contents(home)
        provision(home)
        keys = (home.key, home.ca_key, home.server_key)
        assert all(path.read_bytes() == before[path] for path in keys if path in before)
        assert issued_by(home.server_certificate, home.ca)
        assert belongs(home.server_key, home.server_certificate)
        assert kit_of(home, "north").authority == home.ca.read_bytes()
    assert died > 10


def test_a_renewed_certificate_is_for_the_names_as_they_are_now(tmp_path: Path) -> None:
    home = founded(tmp_path)
    before = contents(home)
    home.federation.write_text(home.federation.read_text().replace("also: []", "also: [b.example]"))
    renew_server(home)
    assert read_certificate(home.server_certificate).hosts == ("localhost", "b.example", "127.0.0.1")
    changed = {path for path, data in contents(home).items() if data != before[path]}
    assert changed == {home.federation, home.server_certificate}


def test_a_coordinator_s_key_that_is_lost_is_not_made_again(tmp_path: Path) -> None:
    """Sites would not know it, and everything that it signed would be refused."""
    home = founded(tmp_path, "north")
    add_site(home.federation, "south", "")
    home.key.unlink()
    with pytest.raises(SettingsError, match=r"coordinator\.key is not there"):
        provision(home)
    assert not home.key.exists()
    make_signer(home.key)
    with pytest.raises(TrustError, match="names another key"):
        provision(home)


def test_without_a_kit_it_is_said_who_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="federation provision"):
        kit_of(founded(tmp_path), "north")
