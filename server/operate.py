"""The coordinator at work: processes that are kept alive, and what is done between them.

    keeper       this process: lets members in and others out, keeps runs going (`server.runs`)
      superlink  Flower's server: TLS, node authentication, its database in HOME/state (`server.superlink`)
      superexec  Flower's executor: starts the server application of each run (`server.superexec`)

The executor proves itself by a secret that is made anew at every start. Everything outside reaches one port,
and there only what sites need.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from protocol import files
from protocol.children import LOOPBACK, QUIET, Child, Program, Tick, keep
from protocol.errors import ConsiliumError, SettingsError
from server.control import Control, control, node_key
from server.enrol import membership_of, pins_of
from server.federation import read_federation
from server.folders import wanted_runs
from server.home import CoordinatorHome
from server.runs import tend

log = logging.getLogger("consilium.operate")

EVERYWHERE = "0.0.0.0"  # noqa: S104 - sites are elsewhere; `server.superlink` guards it
WORK_S = 1.0


def serve(home: CoordinatorHome) -> None:
    """Run the coordinator until Ctrl-C or SIGTERM. `SettingsError` where it cannot start, or runs already."""
    require(home)
    make_state(home)
    children = [Child(program, home.state, home.logs) for program in programs(home)]
    with control(local_address(home), home.ca) as link:
        keep(home.state, children, paced(lambda: work(home, link)))


def require(home: CoordinatorHome) -> None:
    """Raise `SettingsError` where a file is missing that the server cannot do without."""
    needed = (home.ca, home.server_certificate, home.server_key, home.pins)
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise SettingsError(f"{', '.join(missing)}: not there; first `consilium federation provision`")


def make_state(home: CoordinatorHome) -> None:
    """Make what Flower's processes keep their owner's alone, and a new secret in it.

    Flower's database is made for all to read; small updates of sites are in it.
    """
    home.state.mkdir(parents=True, exist_ok=True)
    home.state.chmod(0o700)
    files.write(home.superexec_secret, secrets.token_bytes(32))


def local_address(home: CoordinatorHome) -> str:
    """Return where this machine's own processes reach the SuperLink."""
    return f"{LOOPBACK}:{read_federation(home.federation).server.port}"


def programs(home: CoordinatorHome) -> list[Program]:
    """Return the two programs of Flower's, as they are started here."""
    local = local_address(home)
    scripts = Path(sys.executable).parent
    environment = {
        **QUIET,
        "FLWR_HOME": str(home.state / "flwr"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "FORWARDED_ALLOW_IPS": "",  # no header says who asks: `server.superlink` lets its own machine in
        "PATH": f"{scripts}:{os.environ.get('PATH', '')}",
    }
    superlink = (
        *(sys.executable, "-P", "-m", "server.superlink"),
        *("--host", EVERYWHERE, "--port", local.rpartition(":")[2]),
        *("--ssl-ca-certfile", str(home.ca)),
        *("--ssl-certfile", str(home.server_certificate), "--ssl-keyfile", str(home.server_key)),
        *("--database", str(home.database), "--enable-supernode-auth"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.superexec_secret)),
        "--disable-runtime-dependency-installation",
    )
    superexec = (
        *(sys.executable, "-P", "-m", "server.superexec"),
        *("--runtime-api-address", local, "--root-certificates", str(home.ca)),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
    )
    return [Program("superlink", superlink, environment), Program("superexec", superexec, environment)]


def work(home: CoordinatorHome, link: Control) -> None:
    """Do what is due: members first, then every run."""
    admit_members(home, link)
    for folder in wanted_runs(home.runs):
        tend(folder, home.folder, link)


def admit_members(home: CoordinatorHome, link: Control, now: datetime | None = None) -> None:
    """Let the keys of members whose membership holds connect, and no other."""
    now = now or datetime.now(UTC)
    current = [site for site in pins_of(home).sites if membership_of(home, site).holds(now)]
    members = {node_key(home.of(site).auth_public): site for site in current}
    nodes = {node.key: node for node in link.nodes(recent=True)}
    for key in members.keys() - nodes.keys():
        log.info("site '%s' may connect", members[key])
        link.register(key, members[key])
    for key in nodes.keys() - members.keys():
        log.warning("site '%s' may connect no more", nodes[key].name)
        link.unregister(nodes[key].number)


def paced(step: Callable[[], None]) -> Tick:
    """Return a tick that does `step` once a second, and logs once what keeps it from being done."""
    due, last = 0.0, ""

    def tick(dead: Sequence[Child]) -> None:
        nonlocal due, last
        for child in dead:
            log.warning(
                "%s ended and is started again: see logs/%s.log", child.program.name, child.program.name
            )
        if time.monotonic() < due:
            return
        due = time.monotonic() + WORK_S
        try:
            step()
            last = ""
        except ConsiliumError as error:
            if str(error) != last:
                log.warning("%s", error)
            last = str(error)

    return tick
