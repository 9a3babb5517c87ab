"""How a site joins: its keys stay, nothing is overwritten, and it takes no word but its coordinator's."""

import shutil
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import enrol
from client.enrol import accept, begin, membership_of, prepare
from client.home import HOSPITAL, SiteHome
from client.machine import Machine, read_machine
from client.policy import read_policy
from privacy.keys import read_pins, signer
from privacy.kit import Kit, read_kit
from privacy.membership import LASTS, Membership, instant, pack_membership, read_membership, read_request
from protocol.errors import SettingsError, TrustError
from server.enrol import sign
from server.home import CoordinatorHome
from tests.enrolment import asked, crashes, founded, joined


class World:
    """A coordinator, and north, which has asked and was signed."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = CoordinatorHome(folder / "coordinator")
        self.north = SiteHome(folder / "north")

    @property
    def kit(self) -> Kit:
        return read_kit(self.coordinator.of("north").kit.read_bytes())

    @property
    def membership(self) -> Membership:
        return read_membership(self.sent, read_pins(self.coordinator.pins).coordinator)

    @property
    def sent(self) -> bytes:
        return self.coordinator.of("north").membership.read_bytes()

    def machine(self, folder: Path) -> Machine:
        facts = self.kit.facts
        return Machine(facts.site, facts.federation, facts.server, folder)

    def signed(self, membership: Membership) -> bytes:
        """Return a membership as the coordinator would sign it if it wanted to."""
        return pack_membership(membership, signer(self.coordinator.key))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    coordinator = founded(folder, "north", "south")
    sign(coordinator, asked(coordinator, folder, "north").request.read_bytes())
    asked(coordinator, folder, "south")
    return folder


@pytest.fixture
def world(begun: Path, tmp_path: Path) -> World:
    shutil.copytree(begun, tmp_path / "world")
    return World(tmp_path / "world")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_site_that_has_asked_has_keys_settings_and_a_policy_that_allows_nothing_yet(world: World) -> None:
    north = world.north
    assert {path.name for path in north.folder.iterdir()} == {
        "site.yaml",
        "policy.yaml",
        "ca.pem",
        "federation.json",
        "site.key",
        "auth.key",
        "auth.pub",
        "request.json",
    }
    assert north.policy.read_bytes() == HOSPITAL.read_bytes()
    assert read_policy(north.policy).recipes.rules == ()
    secret = {path for path in contents(north.folder) if path.stat().st_mode & 0o077 == 0}
    assert secret == {north.key, north.auth_key, north.settings}
    assert read_machine(north).server == world.kit.facts.server


def test_the_request_is_for_these_keys_and_this_coordinator(world: World) -> None:
    request = read_request(world.north.request.read_bytes())
    assert (request.federation, request.site) == ("brain", "north")
    assert request.key == signer(world.north.key).public.hex()
    assert request.coordinator == signer(world.coordinator.key).public.hex()


def test_asking_twice_changes_nothing(world: World, tmp_path: Path) -> None:
    before = contents(world.north.folder)
    begin(world.north, world.kit, world.machine(tmp_path / "elsewhere"))
    assert contents(world.north.folder) == before


def test_killed_anywhere_it_goes_on_from_there_with_the_same_keys(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, died = world.machine(tmp_path), 0

    def home(number: int) -> SiteHome:
        return SiteHome(tmp_path / str(number))

    for died, _ in enumerate(crashes(monkeypatch, lambda n: begin(home(n), world.kit, machine))):
        north = home(died)
        before = contents(north.folder)
        request = begin(north, world.kit, machine)
        assert all(p.read_bytes() == before[p] for p in (north.key, north.auth_key) if p in before)
        assert read_request(north.request.read_bytes()) == request
        assert read_pins(north.pins).coordinator == read_pins(world.coordinator.pins).coordinator
    assert died > 10


def test_what_people_have_changed_stays_changed(world: World, tmp_path: Path) -> None:
    world.north.policy.write_text("recipes: {hashes: []}\n")
    text = world.north.settings.read_text().replace("localhost:25999", "inside.example:25999")
    world.north.settings.write_text(text)
    begin(world.north, world.kit, world.machine(tmp_path))
    assert world.north.policy.read_text() == "recipes: {hashes: []}\n"
    assert world.north.settings.read_text() == text


def test_another_federation_s_kit_is_refused_and_touches_nothing(world: World, tmp_path: Path) -> None:
    before = contents(world.north.folder)
    other = founded(tmp_path / "other", "north")
    south = read_kit(world.coordinator.of("south").kit.read_bytes())
    for kit in (read_kit(other.of("north").kit.read_bytes()), south):
        with pytest.raises(TrustError, match="another folder by --home"):
            begin(world.north, kit, world.machine(tmp_path))
    assert contents(world.north.folder) == before


def test_a_membership_is_kept_and_its_members_are_known(world: World) -> None:
    accept(world.north, world.sent)
    assert membership_of(world.north) == world.membership
    assert set(read_pins(world.north.pins).sites) == {"north"}
    before = contents(world.north.folder)
    accept(world.north, world.sent)
    assert contents(world.north.folder) == before


def _refusals(world: World, now: datetime) -> dict[str, tuple[bytes, str]]:
    """Return memberships that north must refuse, most of them rightly signed, and what is said."""
    mine, strange = world.membership, "ab" * 32
    south = read_request(SiteHome(world.north.folder.parent / "south").request.read_bytes())
    forged = pack_membership(mine, signer(world.north.key))
    late = replace(mine, not_after=instant(now - timedelta(seconds=1)))
    early = replace(mine, not_before=instant(now + timedelta(minutes=1)))
    other_key = replace(mine, key=strange, sites={"north": strange})
    return {
        "another's word": (forged, "signature of the coordinator"),
        "another site's": (world.signed(replace(mine, site="south")), "not for us"),
        "another federation's": (world.signed(replace(mine, federation="heart")), "not for us"),
        "another key": (world.signed(other_key), "other keys than this site's"),
        "another node key": (world.signed(replace(mine, auth=south.auth)), "other keys than this site's"),
        "without itself": (
            world.signed(replace(mine, sites={"south": strange})),
            "other keys than this site's",
        ),
        "expired": (world.signed(late), "set this machine's clock"),
        "not yet": (world.signed(early), "set this machine's clock"),
    }


def test_what_a_site_refuses(world: World) -> None:
    now, before = datetime.now(UTC), contents(world.north.folder)
    for data, said in _refusals(world, now).values():
        with pytest.raises(TrustError, match=said):
            accept(world.north, data, now)
    assert contents(world.north.folder) == before


@pytest.mark.parametrize("check", ["_require_ours", "_require_timely"])
def test_a_site_that_looks_less_closely_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    monkeypatch.setattr(enrol, check, lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_what_a_site_refuses(world)


def _swapped(world: World) -> None:
    """Hand north another key for south than it knows."""
    known = replace(world.membership, sites={**world.membership.sites, "south": "ab" * 32})
    accept(world.north, world.signed(known))
    with pytest.raises(TrustError, match="another key for 'south' than before"):
        accept(world.north, world.signed(replace(known, sites={**known.sites, "south": "cd" * 32})))
    assert read_pins(world.north.pins).sites["south"].hex() == "ab" * 32


def test_a_coordinator_that_swaps_another_site_s_key_is_refused(world: World) -> None:
    _swapped(world)


def test_a_site_that_believes_a_swapped_key_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "_require_same_peers", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        _swapped(world)


def test_members_come_and_go_but_not_backwards(world: World) -> None:
    first = world.membership
    more = replace(first, issued=instant(datetime.now(UTC) + timedelta(hours=1)))
    more = replace(more, sites={**first.sites, "south": "ab" * 32})
    accept(world.north, world.signed(more))
    with pytest.raises(TrustError, match="older than the one that is here"):
        accept(world.north, world.signed(first))
    less = replace(more, sites=first.sites)
    accept(world.north, world.signed(less))
    assert set(read_pins(world.north.pins).sites) == {"north"}


def test_a_renewed_membership_is_taken_after_the_old_one_has_ended(world: World) -> None:
    accept(world.north, world.sent)
    later = datetime.now(UTC) + 2 * LASTS
    renewed = replace(
        world.membership, issued=instant(later), not_before=instant(later), not_after=instant(later + LASTS)
    )
    assert accept(world.north, world.signed(renewed), later).holds(later)


@pytest.mark.parametrize("lost", ["site.key", "auth.key"])
def test_a_member_that_lost_a_key_does_not_quietly_get_another(
    world: World, tmp_path: Path, lost: str
) -> None:
    accept(world.north, world.sent)
    (world.north.folder / lost).unlink()
    with pytest.raises(SettingsError, match=f"{lost} is not there"):
        begin(world.north, world.kit, world.machine(tmp_path))
    with pytest.raises(SettingsError, match=f"{lost} is not there"):
        accept(world.north, world.sent)
    assert not (world.north.folder / lost).exists()


def test_what_comes_first_is_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="site join KIT"):
        accept(SiteHome(tmp_path / "new"), world.sent)
    with pytest.raises(SettingsError, match=r"send request\.json to the coordinator"):
        membership_of(world.north)


def test_no_private_key_is_in_a_file_that_leaves(tmp_path: Path) -> None:
    """Kit, request and membership: neither the keys' bytes nor their hexadecimal nor any private PEM."""
    coordinator = founded(tmp_path, "north")
    north = joined(coordinator, tmp_path, "north")
    secrets = _secrets(coordinator, north)
    leave = [
        coordinator.of("north").kit,
        north.request,
        coordinator.of("north").membership,
        north.auth_public,
    ]
    for path in leave:
        assert _found(path, secrets) == []
    leaky = tmp_path / "leaky.json"
    for secret in secrets:
        leaky.write_bytes(b'{"x": "' + secret + b'"}')
        assert _found(leaky, secrets)


def _secrets(coordinator: CoordinatorHome, north: SiteHome) -> list[bytes]:
    raw = [path.read_bytes() for path in (coordinator.key, north.key)]
    written = [path.read_bytes() for path in (coordinator.ca_key, coordinator.server_key, north.auth_key)]
    bodies = [b"".join(pem.splitlines()[1:-1]) for pem in written]
    # The OpenSSH form holds the public key too; its private part stands at its end.
    return [b"PRIVATE KEY", *raw, *(key.hex().encode() for key in raw), *(body[-100:] for body in bodies)]


def _found(path: Path, secrets: list[bytes]) -> list[bytes]:
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = b"".join(map(archive.read, archive.namelist()))
    plain = data.replace(b"\n", b"").replace(b"\\n", b"")
    return [secret for secret in secrets if secret in plain or secret in data]


def test_a_folder_that_is_prepared_is_private_and_what_people_edit_in_it_stays(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "hospital" / "site")
    prepare(home)
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert read_policy(home.policy).recipes == read_policy(HOSPITAL).recipes
    home.policy.write_text("edited")
    prepare(home)
    assert home.policy.read_text() == "edited"


def test_a_folder_that_others_may_write_to_is_not_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(SettingsError, match="others may write here; `chmod 700"):
        prepare(SiteHome(tmp_path))
    assert not list(tmp_path.iterdir())
