"""`site.yaml`: written once, read strictly, and what tasks are given of it."""

from pathlib import Path

import pytest

from client.home import SiteHome
from client.machine import Machine, read_machine, settings_of, write_machine
from client.settings import from_node_config, to_node_config
from protocol.errors import SettingsError

LOGIN = "http://north:p%3Ass@proxy.example:3128"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome(tmp_path / "home")


@pytest.mark.parametrize("proxy", [None, "http://proxy.example:3128", LOGIN])
@pytest.mark.parametrize("server", ["a.example:8443", "10.0.0.7:8443", "[::1]:8443"])
def test_it_is_read_as_it_was_written(home: SiteHome, tmp_path: Path, server: str, proxy: str | None) -> None:
    folder = tmp_path / 'a "strange": folder # here'
    machine = Machine("north", "brain", server, folder, "cuda:1", 3, proxy)
    write_machine(home, machine)
    assert read_machine(home) == machine
    assert home.settings.stat().st_mode & 0o777 == 0o600


def test_where_the_server_and_the_proxy_are(home: SiteHome) -> None:
    machine = Machine("north", "brain", "[::1]:8443", Path(), proxy=LOGIN)
    assert (machine.endpoint, machine.gateway) == (("::1", 8443), ("proxy.example", 3128))
    assert machine.gateway_login == "north:p:ss"
    plain = Machine("north", "brain", "a.example:8443", Path())
    assert (plain.gateway, plain.gateway_login) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server", "a.example"),
        ("site", "north wing"),
        ("proxy", "https://proxy.example:3128"),
        ("proxy", "proxy.example"),
        ("threads", -1),
    ],
)
def test_what_is_wrong_is_not_written(home: SiteHome, field: str, value: object) -> None:
    given = {"site": "north", "federation": "brain", "server": "a.example:8443", "data": Path()} | {
        field: value
    }
    with pytest.raises(SettingsError, match=rf"site\.yaml: {field}: expected"):
        write_machine(home, Machine(**given))  # pyright: ignore[reportArgumentType]
    assert not home.settings.exists()


@pytest.mark.parametrize("text", ["", "[]", "site: [", "site: north\n", "!!python/object:os.x {}"])
def test_what_is_no_such_file_is_said_with_its_name(home: SiteHome, text: str) -> None:
    home.folder.mkdir()
    home.settings.write_text(text)
    with pytest.raises(SettingsError, match=r"site\.yaml"):
        read_machine(home)


def test_without_a_file_it_is_said_what_comes_first(home: SiteHome) -> None:
    with pytest.raises(SettingsError, match="site join KIT"):
        read_machine(home)


def test_a_task_is_given_the_home_s_files(home: SiteHome, tmp_path: Path) -> None:
    write_machine(home, Machine("north", "brain", "a.example:8443", tmp_path / "scans", "cpu", 2))
    settings = settings_of(home)
    assert (settings.site, settings.data, settings.threads) == ("north", tmp_path / "scans", 2)
    assert (settings.signing_key, settings.books) == (home.key, home.ledger)
    assert (settings.policy, settings.federation, settings.state) == (home.policy, home.pins, home.state)
    assert from_node_config(to_node_config(settings)) == settings


def test_a_relative_folder_is_one_in_the_home(home: SiteHome) -> None:
    home.folder.mkdir()
    home.settings.write_text("site: north\nfederation: brain\nserver: a.example:1\ndata: scans\n")
    assert settings_of(home).data == home.folder / "scans"
