"""Whom the coordinator makes a member, whom it refuses, and what the others notice of it."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.home import SiteHome
from privacy.certificates import node_key
from privacy.keys import read_pins, signer
from privacy.membership import LASTS, Request, pack_request
from protocol.errors import ConsiliumError, SettingsError, TrustError
from server import enrol
from server.enrol import membership_of, read_revoked, renew, revoke, sign
from server.federation import add_site
from server.home import CoordinatorHome
from server.provision import provision
from tests.enrolment import asked, founded

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=100)


class World:
    """A coordinator and two sites that have asked."""

    def __init__(self, folder: Path) -> None:
        self.home: CoordinatorHome = founded(folder, "north", "south")
        self.sites: dict[str, SiteHome] = {
            site: asked(self.home, folder, site) for site in ("north", "south")
        }

    def request(self, site: str) -> bytes:
        return self.sites[site].request.read_bytes()

    def forge(self, key: str, auth: str, site: str, **changed: str) -> bytes:
        """Return a request for `site`, rightly signed with the keys of the sites `key` and `auth`."""
        signing, node = signer(self.sites[key].key), node_key(self.sites[auth].auth_key)
        coordinator = changed.get("coordinator", signer(self.home.key).public.hex())
        federation = changed.get("federation", "brain")
        request = Request(federation, site, coordinator, signing.public.hex(), node.public)
        return pack_request(request, signing, node)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    World(folder)
    return folder


@pytest.fixture
def world(asking: Path, tmp_path: Path) -> World:
    shutil.copytree(asking, tmp_path / "world")
    world = World.__new__(World)
    world.home = CoordinatorHome(tmp_path / "world" / "coordinator")
    world.sites = {site: SiteHome(tmp_path / "world" / site) for site in ("north", "south")}
    return world


def test_a_member_is_pinned_and_its_node_key_is_ready_to_register(world: World) -> None:
    membership = sign(world.home, world.request("north"), NOW)
    public = signer(world.sites["north"].key).public
    assert read_pins(world.home.pins).sites == {"north": public}
    assert membership.key == public.hex()
    assert world.home.of("north").auth_public.read_bytes() == world.sites["north"].auth_public.read_bytes()
    assert [membership.holds(NOW), membership.holds(NOW + LASTS)] == [True, False]


def test_signing_again_changes_nothing(world: World) -> None:
    first = sign(world.home, world.request("north"), NOW)
    assert sign(world.home, world.request("north"), LATER) == first


def test_a_second_member_leaves_the_first_one_s_dates_and_lets_it_know_the_second_s_key(world: World) -> None:
    first = sign(world.home, world.request("north"), NOW)
    second = sign(world.home, world.request("south"), LATER)
    again = membership_of(world.home, "north")
    assert set(first.sites) == {"north"}
    assert again.sites == second.sites
    assert (again.not_before, again.not_after) == (first.not_before, first.not_after)


def test_what_a_site_already_has_stays_valid_when_others_come_and_go(world: World) -> None:
    sign(world.home, world.request("north"), NOW)
    sent = world.home.of("north").membership.read_bytes()
    sign(world.home, world.request("south"), NOW)
    revoke(world.home, "south", NOW)
    coordinator = read_pins(world.home.pins).coordinator
    assert enrol.read_membership(sent, coordinator).holds(NOW)


def test_renewing_gives_a_year_from_now_to_whom_it_was_asked_for(world: World) -> None:
    for site in ("north", "south"):
        sign(world.home, world.request(site), NOW)
    (renewed,) = renew(world.home, ["north"], LATER)
    assert renewed.until() == LATER + LASTS
    assert membership_of(world.home, "south").until() == NOW + LASTS


def test_a_revoked_site_is_out_for_good_with_its_name_and_its_keys(world: World) -> None:
    for site in ("north", "south"):
        sign(world.home, world.request(site), NOW)
    revoke(world.home, "south", LATER)
    assert set(read_pins(world.home.pins).sites) == {"north"}
    assert set(membership_of(world.home, "north").sites) == {"north"}
    assert read_revoked(world.home)["south"].at == "2026-06-09T12:00:00+00:00"
    with pytest.raises(TrustError, match="was revoked at"):
        sign(world.home, world.request("south"), LATER)
    add_site(world.home.federation, "east", "")
    provision(world.home)
    with pytest.raises(TrustError, match="has, or had, a key"):
        sign(world.home, world.forge("south", "south", "east"), LATER)
    with pytest.raises(SettingsError, match="is no member; members are: north"):
        renew(world.home, ["south"], LATER)


def _refusals(world: World) -> dict[str, tuple[bytes, str]]:
    """Return requests that must be refused once north is a member, and what is said."""
    add_site(world.home.federation, "east", "")
    return {
        "another federation": (
            world.forge("south", "south", "south", federation="heart"),
            "another coordinator",
        ),
        "another coordinator": (
            world.forge("south", "south", "south", coordinator="ab" * 32),
            "another coord",
        ),
        "a stranger": (world.forge("south", "south", "west"), "is not in .*federation.yaml"),
        "north's name": (world.forge("south", "south", "north"), "is a member with other keys"),
        "north's name and node": (world.forge("south", "north", "north"), "is a member with other keys"),
        "north's key": (world.forge("north", "south", "south"), "another site or the coordinator has"),
        "north's node": (world.forge("south", "north", "east"), "another site or the coordinator has"),
        "no request": (b"{}", "no request of ours"),
    }


def test_who_may_not_become_a_member(world: World) -> None:
    sign(world.home, world.request("north"), NOW)
    before = {path: path.read_bytes() for path in world.home.sites.rglob("*") if path.is_file()}
    pins = world.home.pins.read_bytes()
    for data, said in _refusals(world).values():
        with pytest.raises(TrustError, match=said):
            sign(world.home, data, NOW)
    assert before == {path: path.read_bytes() for path in world.home.sites.rglob("*") if path.is_file()}
    assert world.home.pins.read_bytes() == pins


def test_a_coordinator_that_does_not_compare_keys_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol, "_require_new_keys", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_who_may_not_become_a_member(world)


def test_killed_between_key_and_membership_it_is_put_right_by_signing_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(enrol, "write_memberships", _dies)
        with pytest.raises(KeyboardInterrupt):
            sign(world.home, world.request("north"), NOW)
    assert sign(world.home, world.request("north"), NOW).site == "north"


def test_without_the_coordinator_s_key_nothing_is_signed_nor_written(world: World) -> None:
    world.home.key.unlink()
    with pytest.raises(SettingsError, match=r"coordinator\.key is not there"):
        sign(world.home, world.request("north"))
    assert not world.home.of("north").request.exists()
    assert not world.home.key.exists()


def test_before_there_is_a_federation_it_is_said_what_comes_first(tmp_path: Path, world: World) -> None:
    home = CoordinatorHome(tmp_path / "new")
    with pytest.raises(SettingsError, match="federation init"):
        sign(home, world.request("north"))
    home.folder.mkdir()
    shutil.copy(world.home.federation, home.federation)
    with pytest.raises(SettingsError, match="federation provision"):
        sign(home, world.request("north"))


@pytest.mark.parametrize("name", ["request.json", "membership.json"])
def test_a_file_that_was_lost_is_named(world: World, name: str) -> None:
    sign(world.home, world.request("north"), NOW)
    (world.home.sites / "north" / "request.json").unlink()
    (world.home.sites / "north" / "membership.json").unlink()
    with pytest.raises(ConsiliumError, match=rf"{name}: No such file"):
        {"request.json": enrol.request_of, "membership.json": membership_of}[name](world.home, "north")


@pytest.mark.parametrize("text", ["", "[]", '{"north": {}}', '{"north": 3}'])
def test_a_damaged_list_of_the_revoked_stops_everything(world: World, text: str) -> None:
    """Read as empty, it would let every revoked site in again."""
    world.home.revoked.write_text(text)
    with pytest.raises(SettingsError, match="restore it from a copy"):
        sign(world.home, world.request("north"))


def _dies(*_: object) -> None:
    raise KeyboardInterrupt
