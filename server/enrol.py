"""Who is a member: requests are signed, memberships renewed, sites put out.

`federation.json` says who is in, `revoked.json` who was. A site's folder keeps what it asked for and the
newest membership. Every membership names the keys of all members, so when one comes or goes, all are
written anew here, with their dates as they were. The ones that sites already have stay valid; they
need the newer one only to take part in secure aggregation with a site that came later.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from privacy.keys import Pins, read_pins, write_pins
from privacy.membership import (
    LASTS,
    SLACK,
    Membership,
    Request,
    instant,
    pack_membership,
    read_membership,
    read_request,
)
from protocol import files
from protocol.errors import SettingsError, TrustError
from server.federation import read_federation
from server.home import CoordinatorHome
from server.provision import coordinator_key


@dataclass(frozen=True)
class Revocation:
    """A site that was put out: its two public keys, so that they are known again, and when."""

    key: str
    auth: str
    at: str


def check_request(home: CoordinatorHome, data: bytes) -> Request:
    """Read a request; TrustError unless it may be signed once its fingerprint has been compared."""
    request = read_request(data)
    federation, pins, site = read_federation(home.federation), pins_of(home), request.site
    if (request.federation, request.coordinator) != (federation.name, pins.coordinator.hex()):
        raise TrustError(
            f"this request is for federation '{request.federation}' under another coordinator's key"
        )
    if site not in federation.sites:
        raise TrustError(f"'{site}' is not in {home.federation}: add it there first, if it was agreed on")
    gone = read_revoked(home)
    if site in gone:
        raise TrustError(f"'{site}' was revoked at {gone[site].at}: a site that comes back gets a new name")
    _require_new_keys(home, pins, gone, request)
    return request


def sign(home: CoordinatorHome, data: bytes, now: datetime | None = None) -> Membership:
    """Make the site that sent this request a member, or say again that it is one."""
    now = now or datetime.now(UTC)
    request = check_request(home, data)
    coordinator_key(home)  # before anything is written
    folder = home.of(request.site)
    files.write(folder.request, data, files.PUBLIC)
    files.write(folder.auth_public, f"{request.auth}\n".encode(), files.PUBLIC)
    pins = pins_of(home)
    write_pins(home.pins, Pins(pins.coordinator, {**pins.sites, request.site: bytes.fromhex(request.key)}))
    write_memberships(home, now)
    return membership_of(home, request.site)


def renew(home: CoordinatorHome, sites: Iterable[str], now: datetime | None = None) -> list[Membership]:
    """Give `sites` a year from now; SettingsError where one is no member."""
    now, renewed = now or datetime.now(UTC), list(sites)
    for site in renewed:
        _require_member(home, site)
    write_memberships(home, now, renewed)
    return [membership_of(home, site) for site in renewed]


def revoke(home: CoordinatorHome, site: str, now: datetime | None = None) -> None:
    """Put a site out. Its folder stays; its name and keys are never taken again."""
    now = now or datetime.now(UTC)
    _require_member(home, site)
    request = request_of(home, site)
    gone = {**read_revoked(home), site: Revocation(request.key, request.auth, instant(now))}
    plain = {name: vars(revocation) for name, revocation in gone.items()}
    files.write(home.revoked, json.dumps(plain, indent=1).encode(), files.PUBLIC)
    pins = pins_of(home)
    write_pins(home.pins, Pins(pins.coordinator, {s: key for s, key in pins.sites.items() if s != site}))
    write_memberships(home, now)


def pins_of(home: CoordinatorHome) -> Pins:
    """Return the keys of the coordinator and of all members."""
    if not home.pins.exists():
        raise SettingsError(f"{home.pins} is not there: first `consilium federation provision`")
    return read_pins(home.pins)


def membership_of(home: CoordinatorHome, site: str) -> Membership:
    """Return the newest membership of `site`."""
    return read_membership(_bytes(home.of(site).membership), pins_of(home).coordinator)


def request_of(home: CoordinatorHome, site: str) -> Request:
    """Return the request of `site` that was signed."""
    return read_request(_bytes(home.of(site).request))


def read_revoked(home: CoordinatorHome) -> Mapping[str, Revocation]:
    """Return site -> revocation; SettingsError where the file is damaged."""
    if not home.revoked.exists():
        return {}
    try:
        plain = json.loads(home.revoked.read_text(encoding="utf-8"))
        return {site: Revocation(**fields) for site, fields in plain.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{home.revoked}: cannot be read ({error}): restore it from a copy") from error


def write_memberships(home: CoordinatorHome, now: datetime, renewed: Collection[str] = ()) -> None:
    """Write every membership that has changed; `renewed` and new members get a year from `now`."""
    pins, key = pins_of(home), coordinator_key(home)
    for site in pins.sites:
        path = home.of(site).membership
        before = membership_of(home, site) if path.exists() else None
        after = _membership(request_of(home, site), pins, now, None if site in renewed else before)
        if before is None or replace(before, issued=after.issued) != after:
            files.write(path, pack_membership(after, key), files.PUBLIC)


def _membership(request: Request, pins: Pins, now: datetime, before: Membership | None) -> Membership:
    return Membership(
        request.federation,
        request.site,
        request.key,
        request.auth,
        issued=instant(now),
        not_before=before.not_before if before else instant(now - SLACK),
        not_after=before.not_after if before else instant(now + LASTS),
        sites=MappingProxyType({site: key.hex() for site, key in pins.sites.items()}),
    )


def _require_new_keys(
    home: CoordinatorHome, pins: Pins, gone: Mapping[str, Revocation], request: Request
) -> None:
    """Refuse keys that somebody else has, or had, and other keys for a site that is a member."""
    members = [request_of(home, site) for site in pins.sites]
    for member in members:
        if member.site == request.site and member != request:
            raise TrustError(
                f"'{request.site}' is a member with other keys: if it has lost them, revoke it and let it "
                "join under a new name"
            )
    others = [(m.key, m.auth) for m in members if m.site != request.site]
    others += [(each.key, each.auth) for each in gone.values()]
    if request.key == pins.coordinator.hex() or any(
        request.key == key or request.auth == auth for key, auth in others
    ):
        raise TrustError("another site or the coordinator has, or had, a key of this request: make new ones")


def _require_member(home: CoordinatorHome, site: str) -> None:
    members = pins_of(home).sites
    if site not in members:
        raise SettingsError(f"'{site}' is no member; members are: {', '.join(members) or 'none yet'}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}: restore it from a copy") from error
