"""The site at work: two processes that are kept alive.

    keeper       this process
      supernode  Flower's client: asks the coordinator for work, over TLS, outbound only; shows auth.key
      launcher   does the work with the installed code (`client.launcher`), in a warm worker

The two speak over the loopback interface, and know each other by a secret that is made anew at every start.
A coordinator that is not there is waited for; one that shows a certificate of another authority is
refused before anything is said to it, and that is in the audit log.
"""

import logging
import secrets
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from client.books import note
from client.enrol import membership_of
from client.home import SiteHome
from client.machine import Machine, read_machine, settings_of
from client.reach import is_strange, reach
from protocol import files
from protocol.checks import Check
from protocol.children import LOOPBACK, QUIET, Child, Program, keep
from protocol.errors import TrustError

log = logging.getLogger("consilium.operate")


def serve(home: SiteHome) -> None:
    """Run the site until Ctrl-C or SIGTERM.

    Raises `SettingsError` where it cannot start or runs already, `TrustError` for a strange coordinator.
    """
    machine = read_machine(home)
    require_member(home)
    require_ours(home, list(reach(machine, home.ca)))
    files.write(home.executor_secret, secrets.token_bytes(32))
    children = [Child(program, home.state, home.logs) for program in programs(home, machine, free_port())]
    keep(home.state, children, tell)


def require_member(home: SiteHome) -> None:
    """Raise `SettingsError` or `TrustError` where the membership is missing or does not hold now."""
    membership = membership_of(home)
    if not membership.holds(datetime.now(UTC)):
        raise TrustError(
            f"the membership holds from {membership.not_before} until {membership.not_after}: ask the "
            "coordinator for a newer one"
        )


def require_ours(home: SiteHome, checks: Sequence[Check]) -> None:
    """Refuse a server whose certificate is not the coordinator's; one that is not there is waited for."""
    for check in checks:
        if check.state != "failed":
            continue
        if is_strange(check):
            note(settings_of(home), "connect", "refused", check.found)
            raise TrustError(f"{check.found}: {check.remedy}")
        log.warning("%s: %s (%s)", check.what, check.found, check.remedy)


def programs(home: SiteHome, machine: Machine, port: int) -> list[Program]:
    """Return the two programs as they are started here; they meet at `port`."""
    supernode = (
        *(sys.executable, "-P", "-m", "client.supernode"),
        *("--superlink", machine.server, "--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(home.auth_key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.executor_secret)),
        *("--host", LOOPBACK, "--port", str(port)),
    )
    launcher = (
        sys.executable,
        "-P",
        "-m",
        "client.launcher",
        str(home.folder.resolve()),
        f"{LOOPBACK}:{port}",
    )
    proxy = {"HTTPS_PROXY": machine.proxy, "NO_PROXY": ""} if machine.proxy else {"NO_PROXY": "*"}
    return [
        Program("supernode", supernode, {**QUIET, "FLWR_HOME": str(home.state / "flwr"), **proxy}),
        Program("launcher", launcher, {**QUIET, "NO_PROXY": "*"}),
    ]


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def tell(dead: Sequence[Child]) -> None:
    """Log the children that were found dead."""
    for child in dead:
        log.warning("%s ended and is started again: see logs/%s.log", child.program.name, child.program.name)
