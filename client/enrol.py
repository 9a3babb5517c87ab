"""How this site becomes a member of a federation: two steps, with a letter each way in between.

    prepare   a folder that is its owner's alone, policy.yaml; `begin` does it too
    begin    kit -> ca.pem, site.yaml, policy.yaml; both private keys are made here; request.json
    accept   membership -> membership.json, federation.json

Either may be repeated, with the same file to no effect. Neither overwrites: another federation's kit, other
keys than this site's, or another key of a known site is refused before anything is written.
"""

import stat
from datetime import UTC, datetime

from client.home import HOSPITAL, SiteHome
from client.machine import Machine, read_machine, write_machine
from privacy.certificates import node_key
from privacy.keys import Pins, fingerprint, make_signer, read_pins, signer, write_pins
from privacy.kit import Facts, Kit
from privacy.membership import Membership, Request, pack_request, read_membership, read_request
from protocol import files
from protocol.errors import SettingsError, TrustError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def prepare(home: SiteHome) -> None:
    """Make the folder and a strict policy; SettingsError for a folder that others may write to."""
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.folder.stat().st_mode & OTHERS_WRITE:
        raise SettingsError(f"{home.folder}: others may write here; `chmod 700 {home.folder}`")
    if not home.policy.exists():
        files.create(home.policy, HOSPITAL.read_bytes(), files.PUBLIC)


def begin(home: SiteHome, kit: Kit, machine: Machine) -> Request:
    """Make this site's keys and its request; the caller has compared the kit's fingerprint.

    `machine` is what `site.yaml` shall say if there is none yet.
    """
    _require_same(home, kit)
    prepare(home)
    if not home.settings.exists():
        write_machine(home, machine)
    if not home.ca.exists():
        files.create(home.ca, kit.authority, files.PUBLIC)
    if not home.pins.exists():
        write_pins(home.pins, Pins(bytes.fromhex(kit.facts.coordinator), {}))
    return _request(home, kit.facts)


def accept(home: SiteHome, data: bytes, now: datetime | None = None) -> Membership:
    """Take the coordinator's membership; TrustError unless it is for this site with these keys, and newer."""
    machine, known = read_machine(home), _known(home)
    membership = read_membership(data, known.coordinator)
    _require_ours(home, machine, membership)
    _require_timely(home, known, membership, now or datetime.now(UTC))
    _require_same_peers(known, membership)
    sites = {site: bytes.fromhex(key) for site, key in membership.sites.items()}
    write_pins(home.pins, Pins(known.coordinator, sites))
    files.write(home.membership, data, files.PUBLIC)
    return membership


def membership_of(home: SiteHome) -> Membership:
    """Return the membership that was accepted last; TrustError where it is not for this site's keys."""
    if not home.membership.exists():
        raise SettingsError(
            f"{home.membership} is not there yet: send {home.request.name} to the coordinator, then "
            "`consilium site join membership.json`"
        )
    membership = read_membership(home.membership.read_bytes(), _known(home).coordinator)
    _require_ours(home, read_machine(home), membership)
    return membership


def public_keys(home: SiteHome) -> tuple[str, str]:
    """Return the public halves of this site's two keys, as a membership names them."""
    for path in (home.key, home.auth_key):
        if not path.exists():
            raise SettingsError(
                f"{path} is not there: restore it from a copy; a new one would be a stranger's"
            )
    return signer(home.key).public.hex(), node_key(home.auth_key).public


def _request(home: SiteHome, facts: Facts) -> Request:
    if home.membership.exists():
        public_keys(home)  # a member does not get new keys
    key, auth = make_signer(home.key), node_key(home.auth_key)
    request = Request(facts.federation, facts.site, facts.coordinator, key.public.hex(), auth.public)
    if not home.request.exists() or read_request(home.request.read_bytes()) != request:
        files.write(home.auth_public, f"{auth.public}\n".encode(), files.PUBLIC)
        files.write(home.request, pack_request(request, key, auth), files.PUBLIC)
    return request


def _require_same(home: SiteHome, kit: Kit) -> None:
    """Refuse a kit of another federation, site, coordinator or CA than those that this home knows."""
    other = home.ca.exists() and home.ca.read_bytes() != kit.authority
    other |= home.pins.exists() and read_pins(home.pins).coordinator.hex() != kit.facts.coordinator
    if other:
        raise TrustError(f"{home.folder} belongs to another coordinator: give another folder by --home")
    if home.settings.exists():
        _require_named(home, kit.facts)


def _require_named(home: SiteHome, facts: Facts) -> None:
    machine = read_machine(home)
    if (machine.site, machine.federation) != (facts.site, facts.federation):
        raise TrustError(
            f"{home.folder} is site '{machine.site}' of federation '{machine.federation}', the kit is for "
            f"'{facts.site}' of '{facts.federation}': give another folder by --home"
        )


def _require_ours(home: SiteHome, machine: Machine, membership: Membership) -> None:
    if (membership.site, membership.federation) != (machine.site, machine.federation):
        raise TrustError(
            f"this membership is for '{membership.site}' of '{membership.federation}', not for us"
        )
    key, auth = public_keys(home)
    if (membership.key, membership.auth) != (key, auth) or membership.sites.get(machine.site) != key:
        raise TrustError(
            f"this membership is for other keys than this site's: send {home.request} to the coordinator"
        )


def _require_timely(home: SiteHome, known: Pins, membership: Membership, now: datetime) -> None:
    if not membership.holds(now):
        raise TrustError(
            f"this membership holds from {membership.not_before} until {membership.not_after}, and here it "
            f"is {now:%Y-%m-%d %H:%M} UTC: set this machine's clock, or have it renewed"
        )
    if home.membership.exists():
        before = read_membership(home.membership.read_bytes(), known.coordinator)
        if datetime.fromisoformat(membership.issued) < datetime.fromisoformat(before.issued):
            raise TrustError(f"this membership is older than the one that is here ({before.issued})")


def _require_same_peers(known: Pins, membership: Membership) -> None:
    """Refuse another key for a known site: that is how a coordinator would read letters between sites."""
    for site, key in known.sites.items():
        new = membership.sites.get(site)
        if new is not None and new != key.hex():
            raise TrustError(
                f"the coordinator names another key for '{site}' than before ({fingerprint(key)} was, "
                f"{fingerprint(bytes.fromhex(new))} is): ask that site, not the coordinator"
            )


def _known(home: SiteHome) -> Pins:
    if not home.pins.exists():
        raise SettingsError(f"{home.folder} knows no federation yet: first `consilium site join KIT`")
    return read_pins(home.pins)
