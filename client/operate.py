"""The site at work: a process that is kept alive, and its worker.

    keeper       this process
      supernode  asks the coordinator for work, over TLS, outbound only; shows auth.key (`client.supernode`)
        worker   does it with the installed code, and stays warm (`client.worker`)

Nothing listens. A coordinator that is not there is waited for; one that shows a certificate of another
authority is refused before anything is said to it, and that is in the audit log.
"""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from client.enrol import membership_of
from client.home import SiteHome
from client.machine import Machine, read_machine, settings_of
from client.notes import note
from client.reach import is_strange, reach
from protocol.checks import Check
from protocol.children import QUIET, Child, Program, keep
from protocol.errors import TrustError

log = logging.getLogger("consilium.operate")

CLOCK = "set this machine's clock, by NTP"


def serve(home: SiteHome) -> None:
    """Run the site until Ctrl-C or SIGTERM.

    Raises `SettingsError` where it cannot start or runs already, `TrustError` for a strange coordinator.
    """
    machine = read_machine(home)
    require_member(home)
    require_ours(home, list(reach(machine, home.ca)))
    keep(home.state, [Child(program(home, machine), home.state, home.logs)], tell)


def require_member(home: SiteHome) -> None:
    """Raise `SettingsError` or `TrustError` where the membership is missing or does not hold now."""
    membership, now = membership_of(home), datetime.now(UTC)
    if not membership.holds(now):
        remedy = "ask the coordinator for a newer one" if now >= membership.until() else CLOCK
        raise TrustError(
            f"the membership holds from {membership.not_before} until {membership.not_after}: {remedy}"
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


def program(home: SiteHome, machine: Machine) -> Program:
    """Return the program as it is started here."""
    words = (sys.executable, "-P", "-m", "client.supernode", str(home.folder.resolve()))
    proxy = {"HTTPS_PROXY": machine.proxy, "NO_PROXY": ""} if machine.proxy else {"NO_PROXY": "*"}
    return Program("supernode", words, {**QUIET, "FLWR_HOME": str(home.state / "flwr"), **proxy})


def tell(dead: Sequence[Child]) -> None:
    """Log the children that were found dead."""
    for child in dead:
        log.warning("%s ended and is started again: see logs/%s.log", child.program.name, child.program.name)
