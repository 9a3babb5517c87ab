"""The way from this site to the coordinator, step by step, each said with its remedy.

    name     of the server, or of the proxy that stands before it
    line     a TCP connection, through the proxy by CONNECT if there is one
    TLS      the server shows a certificate of the federation's own CA, for its name, in its time
    clock    the server's time, as its answer's Date says it (RFC 9110, whole seconds)

Where one step fails, what comes after it is not known, and is said not to be.
"""

import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from client.machine import Machine
from protocol.checks import Check, failed, note, ok

WAIT_S = 10.0
_NO_TLS = "no TLS there"
FURTHEST_S = 5.0
"""Flower's server refuses a site whose clock is this far ahead."""
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH."""


def reach(machine: Machine, authority: Path) -> Iterator[Check]:
    """Yield the four checks of the way to the server; `authority` is the CA's certificate."""
    name = _name(machine)
    yield name
    if name.state == "failed":
        yield from _unknown("server", "TLS", "clock")
        return
    context = ssl.create_default_context(cafile=authority)
    host, port = machine.gateway or machine.endpoint
    with closing(HTTPSConnection(host, port, timeout=WAIT_S, context=context)) as line:
        if machine.gateway:
            line.set_tunnel(*machine.endpoint, headers=_login(machine.gateway_login))
        yield from _connected(line, machine)


def is_strange(check: Check) -> bool:
    """Say whether a check found a server with TLS that is not the coordinator's, or not now."""
    return check.what == "TLS" and check.state == "failed" and not check.found.startswith(_NO_TLS)


def _connected(line: HTTPSConnection, machine: Machine) -> Iterator[Check]:
    way = "{} by {}:{}".format(machine.server, *machine.gateway) if machine.gateway else machine.server
    try:
        line.connect()
    except ssl.SSLError as error:
        yield ok("server", f"{way} answers")
        yield _distrusted(error, machine)
        yield from _unknown("clock")
    except OSError as error:
        yield failed("server", f"{way}: {error}", _unreachable(machine))
        yield from _unknown("TLS", "clock")
    else:
        yield ok("server", f"{way} answers")
        yield ok("TLS", "the coordinator's certificate, of this federation's CA")
        yield _clock(line)


def _login(login: str | None) -> dict[str, str]:
    """Return the header that tells a proxy who asks (RFC 7617)."""
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}


def _name(machine: Machine) -> Check:
    host, port = machine.gateway or machine.endpoint
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "correct `proxy` or `server` in site.yaml, or this machine's DNS"
        return failed("DNS", f"{host}: {error}", remedy)
    return ok("DNS", f"{host} is {found[0][4][0]}")


def _distrusted(error: ssl.SSLError, machine: Machine) -> Check:
    """Say why the handshake ended, by OpenSSL's number where the certificate was refused."""
    host = machine.endpoint[0]
    what = {
        _NOT_YET: ("the certificate is not valid yet", "set this machine's clock, by NTP"),
        _EXPIRED: (
            "the certificate has expired",
            "is this machine's clock right? Then the coordinator must `consilium federation renew --server`",
        ),
        _OTHER_NAME: ("the certificate is for another name", _rename(host)),
        _OTHER_ADDRESS: ("the certificate is for another address", _rename(host)),
    }
    if not isinstance(error, ssl.SSLCertVerificationError):
        return failed("TLS", f"{_NO_TLS} ({error.reason})", "correct `server` in site.yaml: host and port")
    strange = (
        f"the certificate is not of this federation's CA ({error.verify_message})",
        f"another server, or a device between that opens TLS: have {host} exempted from inspection",
    )
    return failed("TLS", *what.get(error.verify_code, strange))


def _rename(host: str) -> str:
    return f"the coordinator must name {host} in federation.yaml and `consilium federation renew --server`"


def _unreachable(machine: Machine) -> str:
    if machine.proxy:
        return f"ask for a rule in the proxy that lets CONNECT through to {machine.server}"
    return f"ask for a firewall rule: outbound TCP to {machine.server}; or is the server down?"


def _clock(line: HTTPSConnection) -> Check:
    before = time.time()
    try:
        line.request("GET", "/", headers={"Connection": "close"})
        date = line.getresponse().headers["Date"]
    except (OSError, HTTPException):
        date = None
    return clock(date, datetime.fromtimestamp((before + time.time()) / 2, UTC))


def clock(date: str | None, here: datetime) -> Check:
    """Check this machine's time against the Date of an answer of the server's."""
    try:
        return apart(here, parsedate_to_datetime(date or ""))
    except (TypeError, ValueError):
        return note("clock", "not known: the server does not tell its time", "keep it by NTP")


def apart(here: datetime, there: datetime) -> Check:
    """Check this machine's time against the server's."""
    seconds = (here - there).total_seconds()
    found = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the coordinator"
    if abs(seconds) > FURTHEST_S:
        return failed("clock", found, "set this machine's clock, by NTP; or is the coordinator's wrong?")
    return ok("clock", found)


def _unknown(*names: str) -> Iterator[Check]:
    for name in names:
        yield note(name, "not known: see above")
