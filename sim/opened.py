"""Simulated sites with a trained model in them, as they would use it.

All sites of a process share one model, and taking the next site loads it anew: be done with one before.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

from client.settings import Settings
from client.site import Site, open_site
from client.spending import statistics
from client.standardise import standardised
from imaging.sources import list_sites
from models.exported import PARAMETERS
from protocol.errors import CheckpointError, RecipeError
from protocol.messages import Task
from protocol.recipe import Recipe, build, dump_recipe
from protocol.stages import stage_at
from protocol.update import Vectors
from server import checkpoint
from server.book import unflatten
from server.export import kept_at_sites
from sim.run import POOLED, Launch, settings_for
from strategies.base import Local
from strategies.catalogue import STRATEGIES


def sites_of_run(folder: Path, recipe: Recipe, launch: Launch, *, best: bool = False) -> Iterator[Site]:
    """Yield the sites of a run, with its final parameters and what each site keeps to itself.

    `best`: with the parameters of the best validation score instead.
    Raises `CheckpointError` where the run never came to its last stage, whose model the sites would have.
    """
    final = checkpoint.load(folder / "checkpoints")
    _refuse_earlier(folder, recipe, final.round)
    parameters = _best(folder, recipe) if best else unflatten(final.vectors).parameters
    text = dump_recipe(recipe)
    task = Task("evaluate", folder.name, final.round, text, vectors=parameters)
    for settings in settings_for(folder, recipe, launch):
        if settings.site != POOLED:
            site = open_site(settings, text)
            yield standardised(site, task).equip(task)


def sites_of_model(folder: Path, recipe: Recipe, launch: Launch) -> Iterator[Site]:
    """Yield the sites of the data, with the parameters of an exported model.

    Raises `RecipeError` where a site needs more than these: what only the run that made them has.
    """
    if statistics(recipe) or kept_at_sites(recipe):
        raise RecipeError(
            f"{recipe.name}: a part of this model (tables' statistics, or parameters) stayed at the sites: "
            "evaluate the run"
        )
    parameters = load_file(folder / PARAMETERS)
    for name in list_sites(launch.data, recipe):
        here = Settings(name, launch.data, folder, (name,), launch.device, launch.threads)
        site = open_site(here, dump_recipe(recipe))
        site.flat.load(parameters)
        yield site


def _refuse_earlier(folder: Path, recipe: Recipe, number: int) -> None:
    if name := stage_at(recipe, number).name:
        raise CheckpointError(
            f"{folder} stopped in round {number}, of stage '{name}': its own heads are not trained yet; "
            f"finish it with `consilium run resume {folder.name}`"
        )


def _best(folder: Path, recipe: Recipe) -> Vectors:
    local: Local = build(STRATEGIES, recipe.strategy, "strategy").local
    if local.keeps:
        raise RecipeError(
            f"strategy: '{recipe.strategy.name}' keeps parameters at the sites, and those of the best round "
            "are gone: evaluate the final ones"
        )
    path = folder / "best.safetensors"
    if not path.exists():
        raise CheckpointError(
            f"{path} is not there: the recipe selects no metric (evaluation.select), or none was evaluated"
        )
    return load_file(path)
