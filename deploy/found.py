"""Found a federation for trying things on.

    python found.py FOLDER HOST[:PORT] SITE...

    FOLDER/
      coordinator/   the coordinator's home
      SITE/          a site's home, a member already
      phantom/       scans that the sites train on, made up

What people do with kits, requests and telephone calls is done here by one process that holds everybody's
private keys, so the result is good for nothing else. A folder that is founded already stays as it is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from client.enrol import accept, begin
from client.home import SiteHome
from client.machine import Machine
from privacy.kit import read_kit
from server import enrol
from server.federation import PORT, add_site, new_federation
from server.home import CoordinatorHome
from server.provision import provision
from sim.phantom import write_phantom

POLICY = """\
# Whatever is asked of phantoms is allowed. A hospital begins with `consilium site policy new`.
recipes: {rules: [{name: ["*"]}]}
privacy: {required: false, largest_delta: null, largest_epsilon_run: null, largest_epsilon_cohort: null}
counts: {least_patients: 1, least_contributors: 1, least_told: 1, told_in_steps_of: 1}
leaves: {metrics: ["*"], loss: true}
"""


def found(folder: Path, host: str, port: int, sites: Sequence[str]) -> None:
    """Provision `sites` under `folder` and let all of them join."""
    coordinator = CoordinatorHome(folder / "coordinator")
    new_federation(coordinator.federation, "local", host, port)
    for number, site in enumerate(sites, start=1):
        add_site(coordinator.federation, site, "")
        provision(coordinator)
        join(coordinator, SiteHome(folder / site), folder / "phantom" / f"site_{number}")
    for site in sites:  # a site knows those that joined after it only from a newer membership
        accept(SiteHome(folder / site), coordinator.of(site).membership.read_bytes())


def join(coordinator: CoordinatorHome, site: SiteHome, data: Path) -> None:
    """Make a site's home with its keys, and make it a member."""
    kit = read_kit(coordinator.of(site.folder.name).kit.read_bytes())
    begin(site, kit, Machine(kit.facts.site, kit.facts.federation, kit.facts.server, data))
    site.policy.write_text(POLICY, encoding="utf-8")
    enrol.sign(coordinator, site.request.read_bytes())
    accept(site, coordinator.of(site.folder.name).membership.read_bytes())


def main() -> None:
    """Found it, unless it is."""
    folder, address, *sites = sys.argv[1:]
    host, _, port = address.partition(":")
    if not (Path(folder) / "coordinator").exists():
        write_phantom(Path(folder) / "phantom", sites=len(sites), patients=12, seed=0)
        found(Path(folder), host, int(port or PORT), sites)


if __name__ == "__main__":
    main()
