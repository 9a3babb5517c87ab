"""`consilium privacy audit`: attack a recipe as an adversary would, and write down what was found."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from protocol import files
from protocol.recipe import Recipe, load_recipe, parse_cached, recipe_hash
from server.app import environment
from server.cli import RUNS, write_report
from server.evidence import FILE, KINDS, Attack, Evidence, title, to_json, verdict
from server.folders import find_run
from server.record import read_record
from sim.cli import CATALOGUES
from sim.evidence import Effort, attacks, parts, stage_events

PATIENTS = 100


def audit(
    target: Annotated[str, typer.Argument(help="a run's name, or a recipe's file", metavar="RUN|RECIPE")],
    overrides: Annotated[list[str] | None, typer.Argument(help="of a recipe, e.g. privacy.epsilon=8")] = None,
    *,
    out: Annotated[Path, typer.Option(help="where run folders are; where a recipe's audit.json goes")] = RUNS,
    patients: Annotated[
        int, typer.Option(min=0, help="training patients of the hospital; 0: the run's largest, or 100")
    ] = 0,
    seed: Annotated[int, typer.Option(help="draws the made-up patients and who takes part")] = 0,
) -> None:
    """Attack the recipe's own model, stage by stage, with its privacy and without, and print what was found.

    The patients are made up; no data are read. A lower bound found by an attack is not a proof.
    """
    if target.endswith((".yaml", ".yml")):
        recipe = load_recipe(Path(target), overrides or [], CATALOGUES)
        folder = out / f"{recipe.name}-audit"
        folder.mkdir(parents=True, exist_ok=True)
        evidence = gather(recipe, patients or PATIENTS, seed, Effort())
        files.write_text(folder / FILE, to_json(evidence))
        typer.echo(f"audit: {folder / FILE}")
        return
    folder = find_run(out, target)
    record = read_record(folder)
    largest = max((site.patients.get("train", 0) for site in record.sites), default=0)
    evidence = gather(parse_cached(record.recipe), patients or largest or PATIENTS, seed, Effort())
    files.write_text(folder / FILE, to_json(evidence))
    typer.echo(f"audit: {folder / FILE}\nreport: {write_report(folder)}")


def gather(recipe: Recipe, patients: int, seed: int, effort: Effort) -> Evidence:
    """Make all attacks with a progress bar, print the table, and return what was found."""
    console = Console()
    stages = stage_events(recipe, patients)
    numbers: Counter[str] = Counter()
    for stage, event in stages:
        numbers.update(parts(stage.recipe, event, effort))
    with bar(console) as progress:
        tasks = {name: progress.add_task(KINDS[name].title, total=total) for name, total in numbers.items()}
        watch = {name: partial(progress.advance, task) for name, task in tasks.items()}
        found = tuple(
            replace(attack, stage=stage.name)
            for stage, event in stages
            for attack in attacks(stage.recipe, event, effort, seed, watch)
        )
    console.print(table_of(recipe, found))
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Evidence(recipe_hash(recipe), environment().get("commit", "not known"), made, found)


def table_of(recipe: Recipe, found: tuple[Attack, ...]) -> Table:
    """Return the attacks as a table: control, as the recipe trains, limit, and what that means."""
    table = Table(
        "attack", "unit", "undefended", "as it trains", "limit", "", title=f"attacks on {recipe.name}"
    )
    for attack in found:
        kind = KINDS[attack.name]
        numbers = (_number(value) for value in (attack.control, attack.defended, attack.limit))
        table.add_row(title(attack), kind.unit, *numbers, verdict(attack))
    return table


def bar(console: Console) -> Progress:
    """Return a progress bar a line."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
