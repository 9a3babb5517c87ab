"""A site at work: what is started, for whom, and whom it refuses before it says a word."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from client import operate, operate_cli
from client.approved import objection
from client.home import SiteHome
from client.machine import read_machine
from client.operate import program, require_member, require_ours
from privacy.audit import read
from protocol.bundle import bundle_hash
from protocol.checks import failed, ok
from protocol.errors import SettingsError, TrustError
from protocol.files import write_text
from tests.enrolment import asked, founded, joined

UNREACHED = failed("server", "connection refused", "is the server down?")
STRANGE = failed("TLS", "the certificate is not of this federation's CA", "have it exempted")


@pytest.fixture
def north(tmp_path: Path) -> SiteHome:
    return joined(founded(tmp_path, "north"), tmp_path, "north")


def _environment(home: SiteHome) -> dict[str, str]:
    return dict(program(home, read_machine(home)).environment)


def test_one_process_is_kept_and_told_nothing_but_its_home(north: SiteHome) -> None:
    words = program(north, read_machine(north)).words
    assert words[-2:] == ("client.supernode", str(north.folder.resolve()))


def test_the_proxy_of_site_yaml_is_the_only_one(north: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _environment(north)["NO_PROXY"] == "*"
    text = north.settings.read_text().replace("proxy: null", 'proxy: "http://proxy.example:3128"')
    north.settings.write_text(text)
    assert _environment(north)["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert _environment(north)["NO_PROXY"] == ""


def test_a_strange_certificate_is_refused_and_audited(north: SiteHome) -> None:
    with pytest.raises(TrustError, match=r"not of this federation's CA.*exempted"):
        require_ours(north, [ok("DNS", "found"), STRANGE])
    (entry,) = read(north.ledger)
    assert (entry["asked"]["kind"], entry["decided"]) == ("connect", "refused")


def test_a_server_that_is_not_there_is_waited_for(north: SiteHome, caplog: pytest.LogCaptureFixture) -> None:
    require_ours(north, [UNREACHED, failed("TLS", "no TLS there (UNEXPECTED_EOF)", "host and port")])
    assert "is the server down?" in caplog.text
    assert not (north.ledger / "audit.jsonl").exists()


def test_who_is_no_member_does_not_start(tmp_path: Path) -> None:
    home = asked(founded(tmp_path, "north"), tmp_path, "north")
    with pytest.raises(SettingsError, match=r"site join membership\.json"):
        require_member(home)


@pytest.mark.parametrize(
    ("days", "remedy"),
    [(400, "ask the coordinator for a newer one"), (-1, "set this machine's clock, by NTP")],
)
def test_a_membership_that_does_not_hold_now_does_not_start(
    north: SiteHome, monkeypatch: pytest.MonkeyPatch, days: int, remedy: str
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=days)

    require_member(north)
    monkeypatch.setattr(operate, "datetime", Later)
    with pytest.raises(TrustError, match=remedy):
        require_member(north)


def test_the_status_says_what_keeps_a_site_out(
    north: SiteHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operate_cli, "kept", lambda _: [])
    operate_cli.status(north.folder)
    assert "not let in" not in capsys.readouterr().out
    write_text(north.obstacle, "the clock is wrong")
    operate_cli.status(north.folder)
    assert "not let in: the clock is wrong" in capsys.readouterr().out


def test_an_approval_is_kept_and_audited_once(north: SiteHome) -> None:
    app = Typer()
    app.command("approve")(operate_cli.approve_bundle)
    app.command("status")(operate_cli.status)
    words = ["approve", bundle_hash(b"other"), "--home", str(north.folder)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "approved before" in CliRunner().invoke(app, words).output
    assert objection(b"other", north.approved) == ""
    (entry,) = read(north.ledger)
    assert (entry["asked"]["kind"], entry["why"]) == ("approve", bundle_hash(b"other"))


def test_a_site_that_does_not_run_is_said(north: SiteHome) -> None:
    for command in (operate_cli.status, operate_cli.stop):
        with pytest.raises(SettingsError, match="nothing runs here"):
            command(north.folder)
    with pytest.raises(SettingsError, match="nothing was said yet"):
        operate_cli.logs(home=north.folder)
