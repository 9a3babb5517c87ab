"""`consilium run status|logs|stop`: looking at what runs, which needs neither torch nor Flower."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from protocol.claim import holder
from protocol.recipe import parse_cached
from protocol.tail import show
from server.folders import (
    find_run,
    is_over,
    read_submission,
    read_wanted,
    record_of,
    run_folders,
    status_of,
    want,
)
from server.home import CoordinatorHome
from server.options import HERE, AsJson, Follow, Home, Lines
from server.record import CONDUCTOR, LOG, SiteRound

Run = Annotated[
    str,
    typer.Argument(help="a run's name, or enough of its beginning; by default the newest", metavar="[RUN]"),
]

watching = typer.Typer()
"""What `consilium run` has of commands that look at a run, or stop it."""


@watching.command("status")
def run_status(run: Run = "", home: Home = HERE) -> None:
    """Show how far a run is, and what every site did in its newest round."""
    folder = run_in(CoordinatorHome(home).runs, run)
    console = Console()
    for line in standing(folder):
        console.print(line, markup=False)
    if (record := record_of(folder)) is not None and record.rounds:
        console.print(site_rounds(record.rounds[-1].sites))


@watching.command("logs")
def run_logs(
    run: Run = "", lines: Lines = 40, *, on: Follow = False, as_json: AsJson = False, home: Home = HERE
) -> None:
    """Show what a run has said."""
    show(run_in(CoordinatorHome(home).runs, run) / LOG, lines, on=on, as_json=as_json)


@watching.command("stop")
def stop_run(run: Run = "", home: Home = HERE) -> None:
    """Stop a run; `run resume` goes on with it from its last checkpoint."""
    folder = run_in(CoordinatorHome(home).runs, run)
    want(folder, replace(read_wanted(folder), going=False))
    typer.echo(f"{folder.name} stops; nothing is lost: consilium run resume {folder.name}")


def run_in(runs: Path, run: str) -> Path:
    """Return the folder of `run`, by default of the newest; `TrackingError` where there is none."""
    newest = run_folders(runs)[-1:] if not run else []
    return newest[0] if newest else find_run(runs, run)


def standing(folder: Path) -> Iterator[str]:
    """Yield lines on where a run stands."""
    wanted, last, record = read_wanted(folder), read_submission(folder), record_of(folder)
    total = parse_cached((folder / "recipe.yaml").read_text(encoding="utf-8")).all_rounds
    yield f"{folder.name}: {_word(folder)}, {len(record.rounds) if record else 0} of {total} rounds"
    if record and record.early:
        yield f"  ended early: {record.early}"
    if last is not None and last.why and status_of(folder) != "finished":
        again = "" if is_over(folder, last) or not wanted.going else "; it is tried again"
        yield f"  last ended because: {last.why}{again}"


def site_rounds(sites: Iterable[SiteRound]) -> Table:
    """Return a row a site: what became of what it was asked."""
    found = Table("site", "answer", "cases", "why")
    for site in sites:
        found.add_row(site.site, site.status, str(site.cases or "-"), site.reason)
    return found


def _word(folder: Path) -> str:
    wanted, last = read_wanted(folder), read_submission(folder)
    if status_of(folder) == "finished":
        return "finished"
    if holder(folder / CONDUCTOR) is not None:
        return "goes on" if wanted.going else "stops"
    if not wanted.going:
        return "stopped"
    return "failed for good" if last and last.ended and is_over(folder, last) else "waits to go on"
