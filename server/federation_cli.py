"""`consilium federation ...`: how a federation comes to be, and who is in it.

federation init NAME --host HOST    write federation.yaml
federation add SITE                 one more site, in the file and with a kit
federation provision                CA, server's certificate, coordinator's key, a kit a site
federation sign REQUEST             make a site a member
federation renew [SITE...] [--server]    a year more
federation revoke SITE              put a site out
federation list                     who is in it
federation status                   who is connected, and what the newest run knows of each site
federation doctor                   is all as it should be?
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from privacy.membership import Membership
from protocol.checks import require, table
from protocol.errors import SettingsError, TrustError
from protocol.recipe import parse_cached
from server import enrol
from server.control import Node, control
from server.doctor import examine
from server.federation import PORT, add_site, new_federation, read_federation
from server.folders import record_of, run_folders
from server.home import CoordinatorHome
from server.operate import local_address
from server.options import HERE, Home
from server.provision import kit_of, provision, renew_server
from server.record import RunRecord

federation = typer.Typer(help="Found a federation, and say who is in it.", no_args_is_help=True)

Site = Annotated[str, typer.Argument(help="a site's name in federation.yaml")]


@federation.command()
def init(
    name: Annotated[str, typer.Argument(help="the federation's name")],
    host: Annotated[str, typer.Option(help="name or IP address by which sites reach the coordinator")],
    port: Annotated[int, typer.Option(help="its port")] = PORT,
    home: Home = HERE,
) -> None:
    """Write a commented federation.yaml to begin with."""
    path = CoordinatorHome(home).federation
    new_federation(path, name, host, port)
    typer.echo(f"{path}: now add its sites, then `consilium federation provision`")


@federation.command()
def add(
    site: Annotated[str, typer.Argument(help="the new site's name; it stays for ever")],
    contact: Annotated[str, typer.Option(help="whom to call there")] = "",
    home: Home = HERE,
) -> None:
    """Add a site; in a federation that lives, with its kit. The others notice nothing."""
    here = CoordinatorHome(home)
    add_site(here.federation, site, contact)
    typer.echo(f"{here.federation}: has '{site}' now")
    if here.pins.exists():
        _provision(here)


@federation.command("provision")
def provision_all(home: Home = HERE) -> None:
    """Make what is missing: CA, server's certificate, coordinator's key, a startup kit a site."""
    _provision(CoordinatorHome(home))


@federation.command()
def sign(
    request: Annotated[Path, typer.Argument(help="request.json, as the site sent it")],
    fingerprint: Annotated[str, typer.Option(help="its own, as the site's person read it to you")] = "",
    home: Home = HERE,
) -> None:
    """Make a site a member: check its request, sign its keys, write its membership."""
    here, data = CoordinatorHome(home), _bytes(request)
    asked = enrol.check_request(here, data)
    asked.require(fingerprint or typer.prompt(f"the request's fingerprint, as {asked.site} reads it to you"))
    membership = enrol.sign(here, data)
    _tell(here, membership)
    others = [site for site in membership.sites if site != membership.site]
    if others:
        typer.echo(
            f"for secure aggregation with it, {', '.join(others)} need their newer membership.json too"
        )


@federation.command()
def renew(
    sites: Annotated[
        list[str] | None, typer.Argument(help="members; none means all", metavar="[SITE]...")
    ] = None,
    *,
    server: Annotated[bool, typer.Option("--server", help="the server's certificate instead")] = False,
    home: Home = HERE,
) -> None:
    """Give memberships, or the server's certificate, a year from now."""
    here = CoordinatorHome(home)
    if server and sites:
        raise SettingsError("either --server or sites: they are renewed for different reasons")
    if server:
        renew_server(here)
        typer.echo(f"{here.server_certificate}: renewed; start the server again to use it")
        return
    for membership in enrol.renew(here, sites or enrol.pins_of(here).sites):
        _tell(here, membership)


@federation.command()
def revoke(site: Site, home: Home = HERE) -> None:
    """Put a site out of the federation; its name and its keys are never taken again."""
    enrol.revoke(CoordinatorHome(home), site)
    typer.echo(f"'{site}' is out: the server lets it connect no more. The other sites go on as they are")


@federation.command("list")
def list_sites(home: Home = HERE) -> None:
    """List the sites: whom to call, how far they are, until when."""
    here = CoordinatorHome(home)
    found = read_federation(here.federation)
    rows = Table("site", "contact", "stands")
    now = datetime.now(UTC)
    for site, contact in found.sites.items():
        rows.add_row(site, contact, _stands(here, site, now))
    console = Console()
    console.print(rows)
    console.print(f"{found.name}, server {found.server.address}", markup=False)


@federation.command("status")
def federation_status(home: Home = HERE) -> None:
    """Show who is connected, since when, and what the newest run knows of each site."""
    here = CoordinatorHome(home.resolve())
    with control(local_address(here), here.ca) as link:
        nodes = {node.name: node for node in link.nodes()}
    newest = run_folders(here.runs)[-1:]
    record = record_of(newest[0]) if newest else None
    Console().print(sites_table(enrol.pins_of(here).sites, nodes, record))


@federation.command()
def doctor(home: Home = HERE) -> None:
    """Check files, modes, dates, keys, port, disk and clock; exit status 21 if something must be done."""
    checks = examine(CoordinatorHome(home))
    Console().print(table(checks))
    require(checks)


def _provision(home: CoordinatorHome) -> None:
    made = provision(home)
    for path in made:
        typer.echo(f"made {path}")
    members = enrol.pins_of(home).sites
    for site in sorted(read_federation(home.federation).sites.keys() - members.keys()):
        typer.echo(f"fingerprint of {home.of(site).kit}, to be read to {site} by telephone:")
        typer.echo(f"  {kit_of(home, site).fingerprint}")
    if not made:
        typer.echo("nothing to make: all is there")


def _tell(home: CoordinatorHome, membership: Membership) -> None:
    path = home.of(membership.site).membership
    typer.echo(f"{path}: valid until {membership.until():%Y-%m-%d}; send it to {membership.site}")


def _stands(home: CoordinatorHome, site: str, now: datetime) -> str:
    revoked = enrol.read_revoked(home)
    if site in revoked:
        return f"revoked on {revoked[site].at[:10]}"
    if home.pins.exists() and site in enrol.pins_of(home).sites:
        membership = enrol.membership_of(home, site)
        word = "member" if membership.holds(now) else "not valid now: member"
        return f"{word} until {membership.until():%Y-%m-%d}"
    return "has a kit, is no member yet" if home.of(site).kit.exists() else "no kit yet"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}: give the file that the site sent") from error


def sites_table(members: Iterable[str], nodes: dict[str, Node], record: RunRecord | None) -> Table:
    """Return a row a member: its connection, its last round, its modalities, its privacy left."""
    found = Table(
        "site", "connected", "since", "version", "last round", "cases by modalities", "epsilon left"
    )
    for site in members:
        node = nodes.get(site)
        connected, since = ("yes" if node.connected else "no", node.since[:19]) if node else ("never", "-")
        found.add_row(site, connected, since, *(_known(site, record) if record else ("-",) * 4))
    return found


def _known(site: str, record: RunRecord) -> tuple[str, str, str, str]:
    rounds = [(r.number, s) for r in record.rounds for s in r.sites if s.site == site]
    summary = next((s for s in record.sites if s.site == site), None)
    patterns = ", ".join(f"{name} {n}" for name, n in summary.patterns.items()) if summary else "-"
    last = f"{rounds[-1][0]}: {rounds[-1][1].status}" if rounds else "-"
    spent = [s.epsilon for _, s in rounds if s.epsilon is not None]
    budget = parse_cached(record.recipe).privacy.epsilon
    left = f"{max(0.0, budget - spent[-1]):.2f} of {budget:g}" if spent and budget is not None else "-"
    version = summary.version if summary and summary.version else "-"
    return version, last, patterns, left
