"""The way to the coordinator, against a real TLS server, a real proxy, and the absence of both."""

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.machine import Machine
from client.reach import FURTHEST_S, apart, reach
from protocol.checks import Check
from tests.client.listener import Authority, closed_port, listening, proxying

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("brain"))


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a CA of the same name, and not the same."""
    return Authority(tmp_path_factory.mktemp("heart"))


def machine(port: int, host: str = "localhost", proxy: str | None = None) -> Machine:
    return Machine("north", "brain", f"{host}:{port}", Path(), proxy=proxy)


def found(asked: Machine, authority: Authority) -> dict[str, Check]:
    return {check.what: check for check in reach(asked, authority.certificate)}


def states(checks: dict[str, Check]) -> dict[str, str]:
    return {what: check.state for what, check in checks.items()}


ALL_WELL = dict.fromkeys(("DNS", "server", "TLS", "clock"), "ok")


def test_a_coordinator_that_is_there(brain: Authority) -> None:
    with listening(brain.server("localhost", NOW)) as port:
        assert states(found(machine(port), brain)) == ALL_WELL


def test_a_certificate_of_another_ca(brain: Authority, heart: Authority) -> None:
    with listening(heart.server("localhost", NOW)) as port:
        checks = found(machine(port), brain)
    assert states(checks) == ALL_WELL | {"TLS": "failed", "clock": "note"}
    assert "not of this federation's CA" in checks["TLS"].found
    assert "inspection" in checks["TLS"].remedy
    assert "not known" in checks["clock"].found


def test_a_line_that_trusts_anybody_is_caught(
    brain: Authority, heart: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(cafile=brain.certificate)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: context)
    with pytest.raises(AssertionError):
        test_a_certificate_of_another_ca(brain, heart)
    with pytest.raises(AssertionError):
        test_a_certificate_for_another_name(brain, "localhost", "name")


@pytest.mark.parametrize(
    ("made", "said", "remedy"),
    [
        (NOW - timedelta(days=500), "has expired", "renew --server"),
        (NOW + timedelta(days=2), "is not valid yet", "clock"),
    ],
)
def test_a_certificate_out_of_its_time(brain: Authority, made: datetime, said: str, remedy: str) -> None:
    with listening(brain.server("localhost", made)) as port:
        check = found(machine(port), brain)["TLS"]
    assert check.state == "failed"
    assert said in check.found
    assert remedy in check.remedy


@pytest.mark.parametrize(("host", "kind"), [("localhost", "name"), ("127.0.0.1", "address")])
def test_a_certificate_for_another_name(brain: Authority, host: str, kind: str) -> None:
    with listening(brain.server("other.example", NOW)) as port:
        check = found(machine(port, host), brain)["TLS"]
    assert (check.state, check.found) == ("failed", f"the certificate is for another {kind}")
    assert host in check.remedy


def test_a_server_without_tls(brain: Authority) -> None:
    with listening(None) as port:
        check = found(machine(port), brain)["TLS"]
    assert check.state == "failed"
    assert "no TLS there" in check.found


@pytest.mark.parametrize(
    ("ahead", "word"), [(timedelta(minutes=3), "behind"), (-timedelta(minutes=3), "ahead of")]
)
def test_a_clock_that_is_off(brain: Authority, ahead: timedelta, word: str) -> None:
    with listening(brain.server("localhost", NOW), ahead) as port:
        check = found(machine(port), brain)["clock"]
    assert check.state == "failed"
    assert word in check.found
    assert "NTP" in check.remedy


def test_a_server_that_does_not_tell_its_time(brain: Authority) -> None:
    with listening(brain.server("localhost", NOW), None) as port:
        check = found(machine(port), brain)["clock"]
    assert check.state == "note"
    assert "not known" in check.found


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        (0.0, "ok"),
        (FURTHEST_S, "ok"),
        (FURTHEST_S + 1, "failed"),
        (-FURTHEST_S, "ok"),
        (-FURTHEST_S - 1, "failed"),
    ],
)
def test_how_far_a_clock_may_be_off(seconds: float, state: str) -> None:
    assert apart(NOW + timedelta(seconds=seconds), NOW).state == state


def test_nobody_listens(brain: Authority) -> None:
    checks = found(machine(closed_port()), brain)
    assert states(checks) == {"DNS": "ok", "server": "failed", "TLS": "note", "clock": "note"}
    assert "refused" in checks["server"].found
    assert "firewall" in checks["server"].remedy


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".example"])
def test_a_name_that_nobody_has(brain: Authority, host: str) -> None:
    checks = found(machine(8443, host), brain)
    assert states(checks) == {"DNS": "failed", "server": "note", "TLS": "note", "clock": "note"}
    assert host in checks["DNS"].found


def test_by_a_proxy_which_alone_has_to_know_the_server_s_name(brain: Authority) -> None:
    with listening(brain.server("localhost", NOW)) as port, proxying() as (gateway, asked):
        assert states(found(machine(port, proxy=f"http://127.0.0.1:{gateway}"), brain)) == ALL_WELL
    assert asked == [f"localhost:{port}"]


def test_a_proxy_s_password_is_used_and_not_shown(brain: Authority) -> None:
    with listening(brain.server("localhost", NOW)) as port, proxying("north:p:ss") as (gateway, _):
        inside = found(machine(port, proxy=f"http://north:p%3Ass@127.0.0.1:{gateway}"), brain)
        outside = found(machine(port, proxy=f"http://127.0.0.1:{gateway}"), brain)
    assert states(inside) == ALL_WELL
    assert not any("p:ss" in check.found or "p%3Ass" in check.found for check in inside.values())
    assert outside["server"].state == "failed"
    assert "407" in outside["server"].found
    assert "CONNECT" in outside["server"].remedy


def test_a_server_that_accepts_and_says_nothing_is_given_up(
    brain: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.reach.WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        check = found(machine(mute.getsockname()[1], "127.0.0.1"), brain)["server"]
    assert check.state == "failed"
    assert "timed out" in check.found
