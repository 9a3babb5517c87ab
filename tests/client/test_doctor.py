"""What a site's doctor finds, each with a remedy; nothing of a patient, nothing secret."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.doctor import examine
from client.home import SiteHome
from client.machine import settings_of
from client.policy import CATALOGUES
from privacy.certificates import node_key
from protocol.checks import Check
from protocol.recipe import Recipe, load_recipe
from tests.client.listener import Authority, closed_port, listening
from tests.enrolment import founded, joined

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    joined(founded(folder, "north"), folder, "north")
    return folder


@pytest.fixture
def home(member: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    shutil.copytree(member, tmp_path / "world")
    home = SiteHome(tmp_path / "world" / "north")
    _edit(home, str(member), str(tmp_path / "world"))
    return home


@contextmanager
def served(home: SiteHome, tmp_path: Path) -> Generator[None]:
    """Let the coordinator's server answer, on loopback."""
    brain = Authority(tmp_path)
    home.ca.write_bytes(brain.certificate.read_bytes())
    with listening(brain.server("localhost", NOW)) as port:
        _edit(home, "localhost:25999", f"localhost:{port}")
        yield


def found(home: SiteHome, recipe: Recipe | None = None, now: datetime = NOW) -> dict[str, Check]:
    checks = {check.what: check for check in examine(home, recipe, now)}
    assert all(check.remedy for check in checks.values() if check.state == "failed")
    return checks


def failures(home: SiteHome, now: datetime = NOW) -> set[str]:
    return {what for what, check in found(home, now=now).items() if check.state == "failed"}


def test_a_member_with_a_server_is_well(home: SiteHome, tmp_path: Path) -> None:
    with served(home, tmp_path):
        checks = found(home)
    assert {what for what, check in checks.items() if check.state == "failed"} == set()
    assert list(checks) == [
        *("versions", "disk", "site.yaml", "GPU", "site.key", "auth.key", "policy", "data", "membership"),
        *("proxy", "CA", "DNS", "server", "TLS", "clock"),
    ]
    assert checks["policy"].state == "note"
    assert "allows no recipe yet" in checks["policy"].found


def _other_auth(home: SiteHome) -> None:
    home.auth_key.unlink()
    node_key(home.auth_key)


BROKEN: dict[str, tuple[Callable[[SiteHome], object], str]] = {
    "no membership": (lambda home: home.membership.unlink(), "membership"),
    "a torn membership": (lambda home: home.membership.write_bytes(b"{"), "membership"),
    "other keys": (_other_auth, "membership"),
    "a key that others may read": (lambda home: home.key.chmod(0o604), "site.key"),
    "a key that is gone": (lambda home: home.auth_key.unlink(), "auth.key"),
    "a policy with a slip": (lambda home: home.policy.write_text("recipe: {}"), "policy"),
    "no policy": (lambda home: home.policy.unlink(), "policy"),
    "no data": (lambda home: shutil.rmtree(settings_of(home).data), "data"),
    "empty data": (lambda home: (settings_of(home).data / "0001").rmdir(), "data"),
    "no such device": (lambda home: _edit(home, '"cpu"', '"cuda:77"'), "GPU"),
    "no device at all": (lambda home: _edit(home, '"cpu"', '"gpu"'), "GPU"),
    "no CA": (lambda home: home.ca.unlink(), "CA"),
    "archives with a slip": (lambda home: home.pacs.write_text("main: {ulr: x}"), "pacs.yaml"),
    "an archive that nobody hears": (lambda home: _archive(home, closed_port()), "PACS old"),
    "settings with a slip": (lambda home: _edit(home, "threads", "treads"), "site.yaml"),
    "nothing": (lambda home: home.settings.unlink(), "site.yaml"),
}


@pytest.mark.parametrize(("breaks", "what"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_said_in_its_line(
    home: SiteHome, breaks: Callable[[SiteHome], object], what: str
) -> None:
    assert failures(home) == {"server"}
    breaks(home)
    assert what in failures(home)


def test_a_membership_that_ended(home: SiteHome) -> None:
    assert "membership" in failures(home, NOW + timedelta(days=366))
    assert found(home, now=NOW + timedelta(days=350))["membership"].state == "note"


def test_a_doctor_makes_nothing(home: SiteHome) -> None:
    """Least of all a key in place of one that is lost."""
    home.key.unlink()
    before = sorted(home.folder.rglob("*"))
    failures(home)
    assert sorted(home.folder.rglob("*")) == before


def test_a_policy_that_allows_something_is_well(home: SiteHome) -> None:
    home.policy.write_text("recipes: {rules: [{model: [parallel_unet]}]}\n")
    assert found(home)["policy"].state == "ok"


def test_proxies_are_said_without_their_passwords(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    assert found(home)["proxy"].state == "note"
    _edit(home, "proxy: null", 'proxy: "http://me:secret@127.0.0.1:1"')
    checks = found(home)
    assert checks["proxy"].found == "127.0.0.1:1"
    assert not any("secret" in check.found + check.remedy for check in checks.values())


def test_the_data_are_read_as_a_recipe_s_reader_reads_them(home: SiteHome) -> None:
    """Here they are not what the recipe wants, which the reader says with a remedy, and no patient's name."""
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "phantom.yaml", (), CATALOGUES)
    check = found(home, recipe)["data"]
    assert check.state == "failed"
    assert "0001" not in check.found


def _archive(home: SiteHome, port: int) -> None:
    home.pacs.write_text(f"old: {{host: 127.0.0.1, port: {port}, aet: OLD}}")


def _edit(home: SiteHome, old: str, new: str) -> None:
    text = home.settings.read_text()
    assert old in text
    home.settings.write_text(text.replace(old, new))
