"""A federation in a temporary folder, for the tests of provisioning: founded, asked, joined."""

from pathlib import Path

from client.enrol import accept, begin
from client.home import SiteHome
from client.machine import Machine
from privacy.kit import read_kit
from server.enrol import sign
from server.federation import add_site, new_federation
from server.home import CoordinatorHome
from server.provision import provision


def founded(folder: Path, *sites: str, host: str = "localhost", port: int = 25999) -> CoordinatorHome:
    """Return the home of a coordinator who has made everything, a kit for each of `sites` included."""
    home = CoordinatorHome(folder / "coordinator")
    new_federation(home.federation, "brain", host, port)
    for site in sites:
        add_site(home.federation, site, f"it@{site}.example")
    provision(home)
    return home


def asked(coordinator: CoordinatorHome, folder: Path, site: str) -> SiteHome:
    """Return the home of a site that has made its keys and its request."""
    home = SiteHome(folder / site)
    kit = read_kit(coordinator.of(site).kit.read_bytes())
    scans = folder / "scans"
    (scans / "0001").mkdir(parents=True, exist_ok=True)
    facts = kit.facts
    begin(home, kit, Machine(facts.site, facts.federation, facts.server, scans))
    return home


def joined(coordinator: CoordinatorHome, folder: Path, site: str) -> SiteHome:
    """Return the home of a site that is a member."""
    home = asked(coordinator, folder, site)
    sign(coordinator, home.request.read_bytes())
    accept(home, coordinator.of(site).membership.read_bytes())
    return home
