"""The coordinator's commands for what runs.

run start RECIPE [overrides]       begin a run over the federation
run status|logs|stop RUN           look at it, stop it; `run resume` goes on with it
federation status                  who is connected, and what the newest run knows of each site
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.catalogue import MODELS
from models.objectives import OBJECTIVES
from privacy.keys import FEDERATION
from protocol.children import is_kept
from protocol.claim import holder
from protocol.recipe import Recipe, load_recipe, parse_cached
from protocol.tail import show
from server.app import sign
from server.book import new_folder
from server.cli import find_run, run_folders
from server.control import Node, control
from server.enrol import pins_of
from server.home import CoordinatorHome
from server.operate import local_address
from server.record import CONDUCTOR, LOG, RunRecord, SiteRound
from server.runs import (
    SUBMITTED,
    WANTED,
    Wanted,
    is_over,
    read_submission,
    read_wanted,
    record_of,
    status_of,
    want,
)
from server.serve_cli import HERE, AsJson, Follow, Home, Lines
from strategies.catalogue import STRATEGIES

CATALOGUES = {"model": MODELS, "objective": OBJECTIVES, "strategy": STRATEGIES}
"""What the coordinator can check of a recipe; which data it names, only sites know."""

Run = Annotated[
    str,
    typer.Argument(help="a run's name, or enough of its beginning; by default the newest", metavar="[RUN]"),
]


# -- Runs ----------------------------------------------------------------------------------------


def start_run(
    recipe: Annotated[Path, typer.Argument(help="a recipe, e.g. recipes/lgg_seg.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="e.g. rounds=20 privacy.epsilon=8")] = None,
    *,
    sites: Annotated[int, typer.Option(help="how many to wait for; 0: all members")] = 0,
    tracking: Annotated[str, typer.Option(help="MLflow URI; empty: SQLite in HOME/runs; off: none")] = "",
    home: Home = HERE,
) -> None:
    """Begin a run of RECIPE over the federation, signed by the coordinator's key."""
    here = CoordinatorHome(home.resolve())
    loaded = load_recipe(recipe, overrides or [], CATALOGUES)
    folder = begin(
        here, loaded, Wanted(going=True, sites=sites or len(pins_of(here).sites), tracking=tracking)
    )
    idle = not is_kept(here.state)
    typer.echo(f"run {folder.name}" + (": begins with `consilium server start`" if idle else ""))


def run_status(run: Run = "", home: Home = HERE) -> None:
    """Show how far a run is, and what every site did in its newest round."""
    folder = run_in(CoordinatorHome(home).runs, run)
    console = Console()
    for line in standing(folder):
        console.print(line, markup=False)
    if (record := record_of(folder)) is not None and record.rounds:
        console.print(site_rounds(record.rounds[-1].sites))


def run_logs(
    run: Run = "", lines: Lines = 40, *, on: Follow = False, as_json: AsJson = False, home: Home = HERE
) -> None:
    """Show what a run has said."""
    show(run_in(CoordinatorHome(home).runs, run) / LOG, lines, on=on, as_json=as_json)


def stop_run(run: Run = "", home: Home = HERE) -> None:
    """Stop a run; `run resume` goes on with it from its last checkpoint."""
    folder = run_in(CoordinatorHome(home).runs, run)
    want(folder, replace(read_wanted(folder), going=False))
    typer.echo(f"{folder.name} stops; nothing is lost: consilium run resume {folder.name}")


def run_in(runs: Path, run: str) -> Path:
    """Return the folder of `run`, by default of the newest; `TrackingError` where there is none."""
    newest = run_folders(runs)[-1:] if not run else []
    return newest[0] if newest else find_run(runs, run)


def is_of_federation(folder: Path) -> bool:
    """Say whether a run was begun by `run start`."""
    return (folder / WANTED).exists()


def resume_run(folder: Path) -> None:
    """Go on with a run that was stopped, or that failed for good."""
    (folder / SUBMITTED).unlink(missing_ok=True)
    want(folder, replace(read_wanted(folder), going=True))
    typer.echo(f"{folder.name} goes on")


def begin(home: CoordinatorHome, recipe: Recipe, wanted: Wanted) -> Path:
    """Make a run's folder, with all that its processes need, and ask for it to go on."""
    folder = new_folder(recipe, home.runs)
    sign(folder, recipe, home.key)
    shutil.copy(home.pins, folder / FEDERATION)  # of this run, to its end
    want(folder, wanted)
    return folder


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


# -- The federation ------------------------------------------------------------------------------


def federation_status(home: Home = HERE) -> None:
    """Show who is connected, since when, and what the newest run knows of each site."""
    here = CoordinatorHome(home.resolve())
    with control(local_address(here), here.ca) as link:
        nodes = {node.name: node for node in link.nodes()}
    newest = run_folders(here.runs)[-1:]
    record = record_of(newest[0]) if newest else None
    Console().print(sites_table(pins_of(here).sites, nodes, record))


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
