"""`consilium site start|status|stop|logs|approve`: the site at work."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.approved import approve
from client.home import SiteHome
from client.machine import read_machine, settings_of
from client.notes import note
from client.operate import serve
from privacy.audit import read
from protocol.children import kept, stop_keeper, table
from protocol.monitor import monitoring
from protocol.tail import show

Home = Annotated[
    Path, typer.Option(envvar="CONSILIUM_HOME", help="the site's folder; by default the current one")
]
Monitor = Annotated[
    int, typer.Option(min=0, max=65535, help="loopback port for health and Prometheus metrics; 0: none")
]
HERE = Path()

processes = typer.Typer()
"""What `consilium site` has of commands for the site at work."""


@processes.command()
def start(home: Home = HERE, monitor: Monitor = 0) -> None:
    """Take part: wait for the coordinator, do what it asks and the policy allows, until Ctrl-C or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    here = SiteHome(home.resolve())
    machine = read_machine(here)
    typer.echo(f"site '{machine.site}' for {machine.server}; logs in {here.logs}; Ctrl-C stops")
    with monitoring(here.state, monitor):
        serve(here)


@processes.command()
def status(home: Home = HERE) -> None:
    """Show the site's processes, what keeps it out if anything does, and what was asked and decided last."""
    here = SiteHome(home)
    Console().print(table(kept(here.state)))
    if here.obstacle.exists():
        typer.echo(f"not let in: {here.obstacle.read_text(encoding='utf-8')}")
    entries = list(read(here.ledger))[-1:]
    for entry in entries:
        asked = entry["asked"]
        typer.echo(f"last: {asked['kind']} of round {asked['round']}, {entry['decided']} at {entry['at']}")
    typer.echo("" if entries else "nothing was asked yet", nl=not entries)


@processes.command()
def stop(home: Home = HERE) -> None:
    """Stop the site. What it was working at is dropped; the coordinator asks again or goes on without."""
    stop_keeper(SiteHome(home).state)


@processes.command()
def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", help="how many lines, from the end")] = 40,
    *,
    on: Annotated[bool, typer.Option("--follow", "-f", help="and every new line, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as the log has it, a JSON object a line")] = False,
    home: Home = HERE,
) -> None:
    """Show what the site's process has said."""
    show(SiteHome(home).logs / "supernode.log", lines, on=on, as_json=as_json)


@processes.command("approve")
def approve_bundle(
    bundle: Annotated[str, typer.Argument(help="SHA-256 of the coordinator's code, as the refusal names it")],
    home: Home = HERE,
) -> None:
    """Let this site's installed code work for a coordinator that has other code. Goes into the audit log."""
    here = SiteHome(home)
    if approve(bundle, here.approved):
        note(settings_of(here), "approve", "approved", bundle)
        typer.echo(f"{here.approved}: {bundle}")
    else:
        typer.echo("it was approved before")
