"""`consilium server start|status|stop|logs`: the coordinator's processes."""

import logging
from typing import Annotated

import typer
from rich.console import Console

from protocol.children import kept, stop_keeper, table
from protocol.monitor import monitoring
from protocol.tail import show
from server.federation import read_federation
from server.home import CoordinatorHome
from server.operate import serve
from server.options import HERE, AsJson, Follow, Home, Lines

Monitor = Annotated[
    int, typer.Option(min=0, max=65535, help="loopback port for health and Prometheus metrics; 0: none")
]

server = typer.Typer(help="Run the coordinator's server.", no_args_is_help=True)


@server.command("start")
def start_server(home: Home = HERE, monitor: Monitor = 0) -> None:
    """Run the server's processes until Ctrl-C or SIGTERM; what dies is started again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    here = CoordinatorHome(home.resolve())
    typer.echo(f"{read_federation(here.federation).server.address}; logs in {here.logs}; Ctrl-C stops")
    with monitoring(here.state, monitor):
        serve(here)


@server.command("status")
def server_status(home: Home = HERE) -> None:
    """Show the server's processes."""
    Console().print(table(kept(CoordinatorHome(home).state)))


@server.command("stop")
def stop_server(home: Home = HERE) -> None:
    """Stop the server and all its processes. Runs go on at the next start."""
    stop_keeper(CoordinatorHome(home).state)


@server.command("logs")
def server_logs(
    program: Annotated[str, typer.Argument(help="superlink or superexec")] = "superlink",
    lines: Lines = 40,
    *,
    on: Follow = False,
    as_json: AsJson = False,
    home: Home = HERE,
) -> None:
    """Show what a process has said."""
    show(CoordinatorHome(home).logs / f"{program}.log", lines, on=on, as_json=as_json)
