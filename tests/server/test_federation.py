"""`federation.yaml`: read strictly, and never written over people's words."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import SettingsError
from server.federation import Federation, Server, add_site, is_host, new_federation, read_federation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_federation(tmp_path / "federation.yaml", "brain", "consilium.example.org", 8443)
    return tmp_path / "federation.yaml"


def test_a_new_file_is_read_as_it_was_asked_for(path: Path) -> None:
    assert read_federation(path) == Federation("brain", Server("consilium.example.org", 8443))


def test_a_new_file_overwrites_nothing(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(SettingsError, match="is there already"):
        new_federation(path, "heart", "other.example")
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("name", "host", "port", "key"),
    [
        ("../brain", "a.example", 8443, "name"),
        ("brain", "a b", 8443, r"server\.host"),
        ("brain", 'a"\nname: x', 8443, r"server\.host"),
        ("brain", "a.example", 0, r"server\.port"),
    ],
)
def test_a_file_with_a_wrong_value_is_not_written(
    tmp_path: Path, name: str, host: str, port: int, key: str
) -> None:
    with pytest.raises(SettingsError, match=key):
        new_federation(tmp_path / "federation.yaml", name, host, port)
    assert list(tmp_path.iterdir()) == []


def test_a_site_is_one_line_more_and_every_comment_stays(path: Path) -> None:
    before = path.read_text()
    add_site(path, "north", 'Dr. "A": it@north.example # not a comment')
    found = add_site(path, "south", "")
    assert path.read_text().startswith(before)
    assert found.sites == {"north": 'Dr. "A": it@north.example # not a comment', "south": ""}
    assert read_federation(path) == found


@settings(max_examples=30)
@given(st.text(max_size=30))
def test_any_contact_is_kept_or_refused(tmp_path_factory: pytest.TempPathFactory, contact: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.unlink(missing_ok=True)
    new_federation(path, "brain", "a.example")
    before = path.read_text()
    try:
        add_site(path, "north", contact)
    except SettingsError:
        assert path.read_text() == before
    else:
        assert read_federation(path).sites == {"north": contact}


@pytest.mark.parametrize("site", ["north", "../x", "", "a b", "x: y\nz"])
def test_a_site_that_is_there_or_is_no_name_is_refused(path: Path, site: str) -> None:
    before = add_site(path, "north", "")
    with pytest.raises(SettingsError):
        add_site(path, site, "")
    assert read_federation(path) == before


def test_where_people_have_moved_things_they_are_told_the_line(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    text = "name: brain\nsites:\n  north: x\nserver:\n  host: a.example\n"
    path.write_text(text)
    with pytest.raises(SettingsError, match="add this line under `sites` yourself"):
        add_site(path, "south", "")
    assert path.read_text() == text


def test_a_slip_of_the_pen_is_said_with_the_nearest_name(path: Path) -> None:
    path.write_text(path.read_text().replace("  port:", "  prot:"))
    with pytest.raises(SettingsError, match=r"nearest is 'server\.port'"):
        read_federation(path)


@pytest.mark.parametrize(
    ("host", "address"),
    [("a.example", "a.example:8443"), ("10.0.0.7", "10.0.0.7:8443"), ("::1", "[::1]:8443")],
)
def test_addresses(host: str, address: str) -> None:
    assert is_host(host)
    assert Server(host, also=("b.example", host)).hosts == (host, "b.example", "127.0.0.1")
    assert Server(host).address == address


@pytest.mark.parametrize(
    "text", ["", "-a.example", "a..b", "a.example.", "a_b", "http://a", "a" * 64, "a:80", "*.a"]
)
def test_what_is_no_host(text: str) -> None:
    assert not is_host(text)
