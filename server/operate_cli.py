"""`consilium run start`, and `run resume` of a federation's run: what a recipe must be checked for first."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from models.catalogue import MODELS
from models.objectives import OBJECTIVES
from privacy.keys import FEDERATION
from protocol.children import is_kept
from protocol.recipe import Recipe, load_recipe
from server.app import sign
from server.book import new_folder
from server.enrol import pins_of
from server.folders import SUBMITTED, WANTED, Wanted, read_wanted, want
from server.home import CoordinatorHome
from server.options import HERE, Home
from strategies.catalogue import STRATEGIES

CATALOGUES = {"model": MODELS, "objective": OBJECTIVES, "strategy": STRATEGIES}
"""What the coordinator can check of a recipe; which data it names, only sites know."""


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
