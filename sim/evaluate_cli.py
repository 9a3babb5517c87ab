"""`consilium evaluate RUN|MODEL`: the protocol of comparison, on simulated sites."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from imaging.sources import list_sites
from models.exported import PARAMETERS, RECIPE
from protocol.errors import SettingsError
from protocol.recipe import load_recipe
from server import robustness
from server.cli import RUNS, write_report
from server.folders import find_run
from server.robustness import Estimate, Robustness
from server.robustness_page import standing_alone
from server.tracking import attach
from sim.assessment import Effort, assess, question
from sim.cli import CATALOGUES
from sim.opened import sites_of_model, sites_of_run
from sim.run import Launch, read_launch

PAGE = "robustness.html"


def evaluate(
    target: Annotated[
        str, typer.Argument(help="a run's name, or the folder of an exported model", metavar="RUN|MODEL")
    ],
    *,
    data: Annotated[
        Path | None, typer.Option(help="folder of the data, all sites; of a run: its own")
    ] = None,
    out: Annotated[Path, typer.Option(help="where run folders are; where a model's results go")] = RUNS,
    best: Annotated[bool, typer.Option("--best", help="the best round's parameters, not the last's")] = False,
    metric: Annotated[str, typer.Option(help="head/metric; empty: what the recipe selects by")] = "",
    reference: Annotated[str, typer.Option(help="an evaluated run, to which BE and rBE are relative")] = "",
    seed: Annotated[int, typer.Option(min=0, help="of failures, corruptions and draws of patients")] = 0,
    replicates: Annotated[int, typer.Option(min=1, help="draws of patients, for the intervals")] = 1000,
) -> None:
    """Score a model on test patients under failing modalities and corrupted scans, with intervals.

    On simulated sites alone: the intervals need single patients' scores, which never leave a real one.
    """
    exported = (Path(target) / PARAMETERS).exists()
    folder = Path(target) if exported else find_run(out, target)
    launch = Launch(_given(data)) if exported else _launch(folder, data)
    recipe = load_recipe(folder / RECIPE, (), CATALOGUES)
    versus = find_run(out, reference) if reference else None
    asked = question(recipe, metric, Effort(seed, replicates), versus)
    name, parameters = folder.resolve().name, "best" if best else "final"
    sites = (
        sites_of_model(folder, recipe, launch)
        if exported
        else sites_of_run(folder, recipe, launch, best=best)
    )
    with bar() as progress:
        total = len(asked.shown) * len(list_sites(launch.data, recipe))
        task = progress.add_task("failures and corruptions", total=total)
        found, numbers = assess(asked, sites, name, parameters, partial(progress.advance, task))
    place = out / f"{name}-robustness" if exported else folder
    robustness.write(place, found, numbers)
    page = _page(place, found) if exported else write_report(folder)
    if not exported:
        tables = (place / robustness.FILE, place / robustness.TABLE, page)
        attach(folder, launch.tracking, tables, robustness.logged(found))
    console = Console()
    console.print(headline_table([found]))
    console.print(
        f"intervals: {found.replicates} draws of the patients within their sites (simulated ones alone)"
    )
    console.print(f"all numbers: {place / robustness.TABLE}\nreport: {page}")


def headline_table(found: Sequence[Robustness]) -> Table:
    """Return the headlines of models side by side, with their intervals."""
    table = Table("", *(each.model for each in found), title=f"test patients: {found[0].metric}")
    for name in dict.fromkeys(name for each in found for name in each.headlines):
        table.add_row(name, *(shown(each.headlines.get(name)) for each in found))
    return table


def shown(estimate: Estimate | None) -> str:
    """Write a value and its interval."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def bar() -> Progress:
    """Return a progress bar with the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns)


def _given(data: Path | None) -> Path:
    if data is None:
        raise SettingsError("an exported model comes without data: give --data FOLDER")
    return data


def _launch(folder: Path, data: Path | None) -> Launch:
    launch = read_launch(folder)
    return launch if data is None else replace(launch, data=data)


def _page(place: Path, found: Robustness) -> Path:
    path = place / PAGE
    path.write_text(standing_alone(found), encoding="utf-8")
    return path
