"""From `federation.yaml` to keys, certificates and a startup kit a site. What is there already stays.

    CA -> server's certificate        coordinator's key -> federation.json
    CA + coordinator's public key + server's address + site's name -> sites/NAME/kit.zip

Killed half way, it goes on from there when it is called again: every file is made whole, and one
that others are made from comes before them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from privacy.certificates import issue, make_authority
from privacy.keys import Pins, Signer, make_signer, read_pins, write_pins
from privacy.kit import Facts, Kit, pack_kit, read_kit
from protocol import files
from protocol.errors import SettingsError, TrustError
from server.federation import Federation, read_federation
from server.home import CoordinatorHome


def provision(home: CoordinatorHome, now: datetime | None = None) -> list[Path]:
    """Make whatever is missing and return it; a second call returns nothing."""
    federation = read_federation(home.federation)
    return list(_made(home, federation, now or datetime.now(UTC)))


def renew_server(home: CoordinatorHome, now: datetime | None = None) -> None:
    """Give the server a new certificate for the hosts of `federation.yaml`; its key stays."""
    _issue(home, read_federation(home.federation), now or datetime.now(UTC))


def coordinator_key(home: CoordinatorHome) -> Signer:
    """Return the coordinator's key; it is made once, before `federation.json` names it, and never again.

    Raises SettingsError or TrustError where the one that is named is not there.
    """
    if home.pins.exists() and not home.key.exists():
        raise SettingsError(f"{home.key} is not there: restore it from a copy; sites know no other")
    key = make_signer(home.key)
    if home.pins.exists() and read_pins(home.pins).coordinator != key.public:
        raise TrustError(f"{home.pins} names another key than {home.key}: restore both from one copy")
    return key


def kit_of(home: CoordinatorHome, site: str) -> Kit:
    """Read the kit that was made for `site`; SettingsError where there is none."""
    path = home.of(site).kit
    if not path.exists():
        raise SettingsError(f"{path} is not there: `consilium federation provision` makes it")
    return read_kit(path.read_bytes())


def facts_of(home: CoordinatorHome, federation: Federation, site: str) -> Facts:
    """Return what a kit for `site` says, as things stand."""
    return Facts(federation.name, site, federation.server.address, coordinator_key(home).public.hex())


def _made(home: CoordinatorHome, federation: Federation, now: datetime) -> Iterator[Path]:
    if not home.ca.exists():
        make_authority(federation.name, home.ca_key, home.ca, now)
        yield home.ca
    if not home.server_certificate.exists():
        _issue(home, federation, now)
        yield home.server_certificate
    if not home.pins.exists():
        write_pins(home.pins, Pins(coordinator_key(home).public, {}))
        yield home.pins
    for site in federation.sites:
        path = home.of(site).kit
        if not path.exists():
            kit = pack_kit(facts_of(home, federation, site), home.ca.read_bytes())
            files.create(path, kit, files.PUBLIC)
            yield path


def _issue(home: CoordinatorHome, federation: Federation, now: datetime) -> None:
    authority = (home.ca_key, home.ca)
    issue(authority, federation.server.hosts, home.server_key, home.server_certificate, now)
