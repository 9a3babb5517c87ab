"""What the coordinator's doctor finds, each with a remedy; what it cannot read is a line, not a crash."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.home import SiteHome
from privacy.certificates import SERVER_LASTS, make_authority
from privacy.keys import Pins, make_signer, write_pins
from protocol.checks import Check
from server import doctor
from server.doctor import examine
from server.enrol import revoke, sign
from server.home import CoordinatorHome
from server.provision import renew_server
from tests.client.listener import Authority, closed_port, listening
from tests.enrolment import asked, founded

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return founded(tmp_path, "north", "south", port=closed_port())


def found(home: CoordinatorHome, now: datetime = NOW) -> dict[str, Check]:
    return {check.what: check for check in examine(home, now)}


def failures(home: CoordinatorHome, now: datetime = NOW) -> dict[str, str]:
    checks = found(home, now)
    assert all(check.remedy for check in checks.values() if check.state == "failed")
    return {what: check.found for what, check in checks.items() if check.state == "failed"}


def test_a_new_federation_is_well_and_waits_for_its_sites(home: CoordinatorHome) -> None:
    assert failures(home) == {}
    assert "is no member yet" in found(home)["site north"].found
    assert "free" in found(home)[f"port {_port(home)}"].found


def test_members_and_the_revoked(home: CoordinatorHome, tmp_path: Path) -> None:
    for site in ("north", "south"):
        sign(home, asked(home, tmp_path, site).request.read_bytes())
    revoke(home, "south")
    assert found(home)["site north"].state == "ok"
    assert found(home)["site south"].found == "revoked"
    assert failures(home, NOW + timedelta(days=366)).keys() == {"server's certificate", "site north"}
    assert found(home, NOW + timedelta(days=360))["site north"].state == "note"


def _another_ca(home: CoordinatorHome) -> None:
    make_authority("brain", home.folder / "other.key", home.ca, NOW)


BROKEN: dict[str, tuple[Callable[[CoordinatorHome], object], str]] = {
    "a key that others may read": (lambda home: home.ca_key.chmod(0o644), "ca.key"),
    "a key that is gone": (lambda home: home.server_key.unlink(), "server.key"),
    "no public keys": (lambda home: home.pins.unlink(), "federation.json"),
    "another coordinator": (
        lambda home: write_pins(home.pins, Pins(make_signer(home.folder / "x.key").public, {})),
        "federation.json",
    ),
    "another CA": (_another_ca, "server's key"),
    "another name": (lambda home: _edit(home, "also: []", "also: [b.example]"), "server's names"),
    "another server": (lambda home: _edit(home, "localhost", "127.0.0.1"), "site north"),
    "no kit": (lambda home: home.of("north").kit.unlink(), "site north"),
    "a torn kit": (lambda home: home.of("north").kit.write_bytes(b"PK"), "site north"),
    "a slip of the pen": (lambda home: _edit(home, "port:", "prot:"), "federation.yaml"),
    "nothing": (lambda home: home.federation.unlink(), "federation.yaml"),
}


@pytest.mark.parametrize(("breaks", "what"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_said_in_its_line(
    home: CoordinatorHome, breaks: Callable[[CoordinatorHome], object], what: str
) -> None:
    breaks(home)
    assert what in failures(home)


def test_the_remedy_for_a_certificate_is_one(home: CoordinatorHome) -> None:
    late = NOW + SERVER_LASTS + timedelta(days=1)
    assert failures(home, late).keys() == {"server's certificate"}
    assert "renew --server" in found(home, late)["server's certificate"].remedy
    renew_server(home, late)
    assert failures(home, late) == {}


def test_a_ca_key_may_be_kept_elsewhere(home: CoordinatorHome) -> None:
    home.ca_key.unlink()
    assert failures(home) == {}
    assert found(home)["ca.key"].state == "note"
    assert found(home)["server's certificate"].state == "ok"


def test_a_clock_that_went_back_is_seen(home: CoordinatorHome) -> None:
    assert "before the CA was made" in failures(home, NOW - timedelta(days=1))["clock"]


def test_a_port_that_another_program_has(home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_WAIT_S", 0.1)
    with socket.create_server(("", _port(home))) as taken:
        taken.settimeout(0)
        assert "another program" in failures(home)[f"port {_port(home)}"]


def test_a_port_that_our_own_server_has(tmp_path: Path) -> None:
    """Ours is whoever shows a certificate of this federation's CA for its name."""
    brain = Authority(tmp_path)
    with listening(brain.server("localhost", NOW)) as port:
        home = founded(tmp_path, port=port)
        assert f"port {port}" in failures(home)
        home.ca.write_bytes(brain.certificate.read_bytes())
        assert "this federation's server" in found(home)[f"port {port}"].found


def test_a_member_whose_folder_is_lost_is_named(home: CoordinatorHome, tmp_path: Path) -> None:
    north: SiteHome = asked(home, tmp_path, "north")
    sign(home, north.request.read_bytes())
    home.of("north").membership.unlink()
    assert "membership.json" in failures(home)["site north"]


def _edit(home: CoordinatorHome, old: str, new: str) -> None:
    text = home.federation.read_text()
    assert old in text
    home.federation.write_text(text.replace(old, new))


def _port(home: CoordinatorHome) -> int:
    return int(home.federation.read_text().split("port: ")[1].split()[0])
