"""A run's model for others: a folder as `models.exported` describes it, in the run's own and in MLflow.

MLflow finds `_load_pyfunc` by this module's name, so a model folder holds nothing to run, and
loading it needs the consilium package.
"""

import shutil
from pathlib import Path

from models.catalogue import build_model
from models.exported import load, write_model
from models.flat import Flat
from protocol.groups import PRIVATE
from protocol.recipe import Head, Recipe, build
from strategies.base import State
from strategies.catalogue import STRATEGIES

Shape = tuple[int, ...]

MODEL = "model"
"""In a finished run's folder."""

_load_pyfunc = load  # MLflow's hook, found by its name


def kept_at_sites(recipe: Recipe) -> bool:
    """Say whether a part of the network never leaves the sites, so that nobody else has all of it."""
    private = build(STRATEGIES, recipe.strategy, "strategy").local.private
    return PRIVATE in Flat(build_model(recipe), private).vectors


def shapes(recipe: Recipe) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return modality -> shape in and head -> shape out, with -1 for what may vary."""
    space = (-1,) * build_model(recipe).axes
    image = (-1, 1, *space)
    inputs: dict[str, Shape] = {
        n: (-1, m.features) if m.kind == "table" else image for n, m in recipe.modalities.items()
    }
    return inputs, {name: _shape_out(head, space) for name, head in recipe.heads.items()}


def _shape_out(head: Head, space: Shape) -> Shape:
    channels = 1 if head.kind in {"survival", "pretext"} else head.classes
    return (-1, channels, *space) if head.kind == "segmentation" else (-1, channels)


def keep(folder: Path, recipe: Recipe, state: State) -> None:
    """Write the final parameters of the run in `folder` as its model, instead of an earlier one.

    Where a part of the network stayed at the sites there is none to write.
    """
    if PRIVATE in state.layout.groups:
        return
    target, partial = folder / MODEL, folder / f"{MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write_model(partial, recipe, state.parameters)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
