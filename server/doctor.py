"""Is this coordinator fit to run a federation? One line a check, each failure with its remedy."""

import socket
import ssl
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from pathlib import Path

from privacy.certificates import belongs, issued_by, read_certificate
from privacy.keys import read_pins, signer
from protocol.checks import Check, dated, disk, failed, note, ok, present, private
from protocol.errors import ConsiliumError
from server.enrol import membership_of, read_revoked
from server.federation import Federation, read_federation
from server.home import CoordinatorHome
from server.provision import facts_of, kit_of

PROVISION = "consilium federation provision"
RENEW_SERVER = "consilium federation renew --server"
RESTORE = "restore it from a copy: what is new cannot stand for it"
_WAIT_S = 3.0


def examine(home: CoordinatorHome, now: datetime | None = None) -> list[Check]:
    """Look at everything that can be looked at; what cannot be read is a failed check, not an error."""
    now = now or datetime.now(UTC)
    try:
        federation = read_federation(home.federation)
    except ConsiliumError as error:
        return [failed("federation.yaml", str(error), "consilium federation init, or correct the file")]
    checks = [ok("federation.yaml", f"{federation.name}: {len(federation.sites)} sites")]
    checks += _files(home)
    if all(check.state != "failed" for check in checks):
        checks += [
            _clock(home, now),
            *_tls(home, federation, now),
            *_keys(home),
            *_sites(home, federation, now),
        ]
    checks += [_port(home, federation), disk(home.folder)]
    return checks


def _files(home: CoordinatorHome) -> Iterator[Check]:
    yield private(home.key, RESTORE if home.pins.exists() else PROVISION)
    if home.ca.exists() and not home.ca_key.exists():
        yield note("ca.key", "not on this machine", "bring it for `consilium federation renew --server`")
    else:
        yield private(home.ca_key, PROVISION)
    yield present("ca.pem", home.ca, PROVISION)
    yield private(home.server_key, PROVISION)
    yield present("server.pem", home.server_certificate, PROVISION)
    yield present(
        "federation.json", home.pins, RESTORE if any(home.sites.glob("*/request.json")) else PROVISION
    )


def _clock(home: CoordinatorHome, now: datetime) -> Check:
    """Nothing here knows the time better; but time does not go back behind what was made here."""
    made = read_certificate(home.ca).not_before
    if now < made:
        return failed("clock", f"{now:%Y-%m-%d %H:%M} UTC, before the CA was made", "set it, by NTP")
    return note("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC; nothing here to compare it with", "keep it by NTP")


def _tls(home: CoordinatorHome, federation: Federation, now: datetime) -> Iterator[Check]:
    authority, server = read_certificate(home.ca), read_certificate(home.server_certificate)
    yield dated("CA", authority.not_before, authority.not_after, now, "found the federation anew")
    yield dated("server's certificate", server.not_before, server.not_after, now, RENEW_SERVER)
    if not issued_by(home.server_certificate, home.ca) or not belongs(
        home.server_key, home.server_certificate
    ):
        yield failed("server's key", "its certificate is for another key, or of another CA", RENEW_SERVER)
    elif missing := sorted(set(federation.server.hosts) - set(server.hosts)):
        yield failed("server's names", f"the certificate lacks {', '.join(missing)}", RENEW_SERVER)
    else:
        yield ok("server's names", ", ".join(server.hosts))


def _keys(home: CoordinatorHome) -> Iterator[Check]:
    if read_pins(home.pins).coordinator == signer(home.key).public:
        yield ok("federation.json", "names this coordinator's key")
    else:
        yield failed("federation.json", "names another coordinator's key", RESTORE)


def _sites(home: CoordinatorHome, federation: Federation, now: datetime) -> Iterator[Check]:
    members, gone = read_pins(home.pins).sites, read_revoked(home)
    for site in sorted({*federation.sites, *members}):
        try:
            yield _member(home, site, now) if site in members else _not_yet(home, federation, site, gone)
        except ConsiliumError as error:
            yield failed(f"site {site}", str(error), "restore its folder from a copy")


def _member(home: CoordinatorHome, site: str, now: datetime) -> Check:
    membership = membership_of(home, site)
    begins = datetime.fromisoformat(membership.not_before)
    return dated(f"site {site}", begins, membership.until(), now, f"consilium federation renew {site}")


def _not_yet(home: CoordinatorHome, federation: Federation, site: str, gone: Container[str]) -> Check:
    what = f"site {site}"
    if site in gone:
        return note(what, "revoked")
    kit = kit_of(home, site)
    if kit.facts != facts_of(home, federation, site) or kit.authority != home.ca.read_bytes():
        remedy = f"delete {home.of(site).kit}, then {PROVISION}, and send the new one"
        return failed(what, "its kit is not of this server or coordinator", remedy)
    return note(what, "has its kit, is no member yet", "consilium federation sign REQUEST")


def _port(home: CoordinatorHome, federation: Federation) -> Check:
    """Is the port free, or is it our own server that listens?"""
    what, port = f"port {federation.server.port}", federation.server.port
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except PermissionError:
            return failed(what, "this user may not open it", "choose one from 1024 on in federation.yaml")
        except OSError:
            if _is_ours(home.ca, federation.server.host, port):
                return ok(what, "this federation's server listens there")
            return failed(
                what, "another program listens there", "end it, or choose another in federation.yaml"
            )
    return ok(what, "free")


def _is_ours(authority: Path, host: str, port: int) -> bool:
    try:
        context = ssl.create_default_context(cafile=authority)
        with (
            socket.create_connection(("127.0.0.1", port), _WAIT_S) as line,
            context.wrap_socket(line, server_hostname=host),
        ):
            return True
    except OSError:
        return False
