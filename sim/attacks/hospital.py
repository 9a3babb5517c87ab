"""A hospital of made-up patients, in which the site's own code trains.

Scans are smooth random fields of mean 0 and standard deviation 1, tables are Gaussian, and labels are
coins: nothing can be learned but single patients by heart, which is the worst case for privacy.
A segmentation's mask is all or nothing, by a coin a class.
"""

import inspect
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from client.settings import Settings
from client.site import Site
from imaging.cohort import Cohort
from models.catalogue import MODELS, build_model, build_objectives
from models.flat import Flat
from protocol.batch import Batch
from protocol.recipe import Head, Modality, Recipe
from strategies.base import Local

EDGE = 16
"""Pixels or voxels a side of a made-up scan, whatever the recipe's own size."""
_COARSE = 4
_MODES = {2: "bilinear", 3: "trilinear"}
_YEAR = 1.0


def cases(recipe: Recipe, patients: int, seed: int) -> Batch:
    """Return one complete case a patient, with every label; it follows from the arguments alone."""
    generator = torch.Generator().manual_seed(seed)
    shape = (EDGE,) * dims_of(recipe)
    inputs = {
        name: _scans(patients, shape, generator)
        if each.kind == "image"
        else _table(patients, each, generator)
        for name, each in recipe.modalities.items()
    }
    targets = {name: _labels(patients, head, shape, generator) for name, head in recipe.heads.items()}
    everybody = torch.ones(patients, dtype=torch.bool)
    present = everybody[:, None].repeat(1, len(recipe.modalities))
    return Batch(inputs, present, targets, dict.fromkeys(recipe.heads, everybody))


def hospital(recipe: Recipe, batch: Batch) -> Site:
    """Return a site whose training patients are the rows of `batch`, one case each.

    All groups of the network count as travelling, also those that the strategy keeps private: the
    adversary sees more than in any run.
    """
    everybody = torch.arange(len(batch))
    names = tuple(f"patient-{row}" for row in range(len(batch)))
    cohort = Cohort(
        "made-up",
        tuple(recipe.modalities),
        names,
        everybody,
        torch.zeros_like(everybody),
        batch,
        None,
    )
    flat = Flat(build_model(recipe))
    settings = Settings("made-up", Path(), Path())
    owned = dict.fromkeys(flat.vectors, len(batch))
    return Site(
        settings, recipe, cohort, flat, build_objectives(recipe), Local(), everybody, len(batch), owned
    )


def scan_of(coarse: Tensor, shape: torch.Size) -> Tensor:
    """Return the smooth scans `shape` that a few values a side make; a table is itself."""
    if len(shape) == 2:  # noqa: PLR2004 - (patients, features)
        return coarse
    smooth = interpolate(coarse, shape[2:], mode=_MODES[len(shape) - 2])
    each = smooth.flatten(1)
    return ((each - each.mean(1, keepdim=True)) / each.std(1, keepdim=True)).view_as(smooth)


def guess_of(scan: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what `scan_of` makes a scan of this shape from, without a look at it."""
    sides = scan.shape[2:]
    return torch.randn(*scan.shape[:2], *[side // _COARSE for side in sides], generator=generator)


def treating(site: Site, batch: Batch) -> Site:
    """Return the same site, model and all, with other patients."""
    everybody = torch.arange(len(batch))
    names = tuple(f"patient-{row}" for row in range(len(batch)))
    cohort = replace(
        site.cohort, patients=names, patient=everybody, split=torch.zeros_like(everybody), cases=batch
    )
    owned = dict.fromkeys(site.owned, len(batch))
    return replace(site, cohort=cohort, rows=everybody, patients=len(batch), owned=owned)


def dims_of(recipe: Recipe) -> int:
    """Return how many dimensions the recipe's model takes its images in; 2 where it takes none."""
    option = inspect.signature(MODELS[recipe.model.name]).parameters.get("dims")
    return int(recipe.model.options.get("dims", 2 if option is None else option.default))


def _scans(patients: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    whole = torch.Size((patients, 1, *shape))
    return scan_of(torch.randn(patients, 1, *[side // _COARSE for side in shape], generator=generator), whole)


def _table(patients: int, modality: Modality, generator: torch.Generator) -> Tensor:
    return torch.randn(patients, modality.features, generator=generator)


def _labels(patients: int, head: Head, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if head.kind == "segmentation":
        coins = torch.randint(2, (patients, head.classes, *[1] * len(shape)), generator=generator)
        return coins.float().expand(-1, -1, *shape).contiguous()
    if head.kind == "pretext":
        return torch.empty(patients, 0)
    if head.kind == "survival":
        times = torch.rand(patients, generator=generator) + 0.5 * _YEAR
        return torch.stack([times, torch.ones(patients)], 1)
    return torch.randint(max(head.classes, 2), (patients,), generator=generator)
