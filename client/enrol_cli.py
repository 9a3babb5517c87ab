"""`consilium site init|join|doctor`: from a startup kit to a member, and whether all is well.

site init                   make this site's folder, and a policy to edit
site join kit.zip           make this site's keys and its request
site join membership.json   take what the coordinator has signed
site doctor                 one table: what is well, what is not, and what to do
"""

import zipfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.doctor import examine
from client.enrol import accept, begin, prepare
from client.home import SiteHome
from client.machine import Machine
from client.policy import CATALOGUES
from privacy.keys import fingerprint as fingerprint_of
from privacy.kit import read_kit
from protocol.checks import require, table
from protocol.errors import SettingsError
from protocol.recipe import load_recipe

Home = Annotated[
    Path, typer.Option(envvar="CONSILIUM_HOME", help="this site's folder; by default the current one")
]
HERE = Path()


def init(home: Home = HERE) -> None:
    """Make this site's folder, with a strict policy: cohorts and policy may come before the kit."""
    here = SiteHome(home)
    prepare(here)
    typer.echo(f"{here.folder.resolve()} is this site's; {here.policy.name} allows no recipe yet")
    typer.echo("next: `consilium site join KIT`, or first `consilium site ingest SOURCE... --cohort NAME`")


def join(
    file: Annotated[Path, typer.Argument(metavar="KIT|MEMBERSHIP", help="what the coordinator has sent")],
    *,
    home: Home = HERE,
    data: Annotated[Path | None, typer.Option(help="folder of this hospital's scans")] = None,
    device: Annotated[str, typer.Option(help="where to train: cpu, cuda, cuda:1")] = "cpu",
    proxy: Annotated[str | None, typer.Option(help="the way out, e.g. http://proxy.example:3128")] = None,
    fingerprint: Annotated[str, typer.Option(help="the kit's, as the coordinator read it to you")] = "",
) -> None:
    """Join a federation: first with its KIT, then with the MEMBERSHIP that comes back."""
    here = SiteHome(home)
    if not file.is_file():
        raise SettingsError(f"{file} is not there: give the file that the coordinator has sent")
    if zipfile.is_zipfile(file):
        _begin(here, file, (data, device, proxy), fingerprint)
    else:
        _accept(here, file)


def doctor(
    home: Home = HERE,
    recipe: Annotated[Path | None, typer.Option(help="also read the data as this recipe does")] = None,
) -> None:
    """Check disk, GPU, clock, certificates, the way out, data, policy; exit status 21 if one fails."""
    loaded = load_recipe(recipe, [], CATALOGUES) if recipe else None
    console = Console()
    with console.status("looking at the data and the way to the coordinator"):
        checks = list(examine(SiteHome(home), loaded))
    console.print(table(checks))
    require(checks)


def _begin(home: SiteHome, file: Path, place: tuple[Path | None, str, str | None], fingerprint: str) -> None:
    kit = read_kit(file.read_bytes())
    kit.require(fingerprint or typer.prompt("the kit's fingerprint, as the coordinator reads it to you"))
    folder, device, proxy = place
    if folder is None and not home.settings.exists():
        raise SettingsError("where are this hospital's scans? Give --data FOLDER")
    facts = kit.facts
    machine = Machine(facts.site, facts.federation, facts.server, folder or Path(), device, proxy=proxy)
    if home.settings.exists():
        typer.echo(f"{home.settings} is there and stays as it is: edit it to change data, device or proxy")
    request = begin(home, kit, machine)
    typer.echo(
        f"keys of site '{request.site}' are made and stay here; send {home.request} to the coordinator"
    )
    typer.echo(f"its fingerprint, to be read to the coordinator by telephone:\n  {request.fingerprint}")


def _accept(home: SiteHome, file: Path) -> None:
    membership = accept(home, file.read_bytes())
    typer.echo(f"member of '{membership.federation}' until {membership.until():%Y-%m-%d}; members' keys:")
    for site, key in membership.sites.items():
        typer.echo(f"  {fingerprint_of(bytes.fromhex(key))}  {site}")
    typer.echo("next: `consilium site doctor`")
