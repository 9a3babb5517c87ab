"""A cohort that `consilium site ingest` has made: NIfTI folders with a manifest.

The layout and the options are those of `imaging.sources.nifti`. Before anything is read, every file is held
against the manifest's hash: a cohort that was half copied, or edited by hand, is refused. A patient's name
is a keyed stand-in, so that the split, which follows from names, says nothing of who they are.

Where a folder for `arrays` is given, what a recipe makes of the cohort is kept there as memory-mapped arrays
(`imaging.arrays`). They are of the manifest's content, of what the recipe asks for, and of the code that made
them; another of these makes others.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from imaging import cases, transforms
from imaging.arrays import Patient
from imaging.arrays import arrays as mapped
from imaging.cohort import OWN, Cohort, nobody, of_patients
from imaging.ingest.manifest import content, verify
from imaging.sources import nifti
from imaging.splits import split_patients
from protocol.recipe import Count, Natural, Positive, Recipe


def sites(root: Path, recipe: Recipe) -> list[str]:
    """Return the cohorts in `root`, one a site."""
    return nifti.sites(root, recipe)


def read(
    root: Path,
    recipe: Recipe,
    site: str | None,
    arrays: Path | None = None,
    *,
    size: tuple[Count, ...],
    spacing_mm: tuple[Positive, Positive, Positive] | None = None,
    slices: Count | None = None,
    split_seed: Natural = 0,
) -> Cohort:
    """Read one site, see `imaging.sources.nifti.read`; `DataError` where its files are not as was written."""
    folder, name = (root, OWN) if site is None else (root / site, site)
    options: dict[str, Any] = {"size": size, "spacing_mm": spacing_mm, "slices": slices}
    if arrays is None:
        verify(folder)
        return nifti.read(root, recipe, site, **options, split_seed=split_seed)

    def make() -> Iterator[Patient]:
        verify(folder)
        return _somebody(name, nifti.read_patients(root, recipe, site, **options))

    found = mapped(arrays, _key(folder, recipe, options), make)
    spacing = nifti.one_spacing(name, found.spacings, size)
    split = split_patients(found.counts, split_seed)
    return of_patients(name, recipe, found.counts, found.cases, split, spacing_mm=spacing)


def _somebody(site: str, patients: Iterable[Patient]) -> Iterator[Patient]:
    total = 0
    for each in patients:
        total += len(each[1])
        yield each
    if not total:
        raise nobody(site)


def _key(folder: Path, recipe: Recipe, options: dict[str, Any]) -> str:
    """Return a hash of all that cases depend on."""
    inputs = {name: (each.kind, each.features) for name, each in recipe.modalities.items()}
    heads = {name: (each.kind, each.classes) for name, each in recipe.heads.items()}
    told = [content(folder), inputs, heads, options, _code(), torch.__version__]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@cache
def _code() -> str:
    """Return a hash of the code that makes cases of scans."""
    made_by = (cases, transforms, nifti)
    texts = b"".join(Path(str(module.__file__)).read_bytes() for module in made_by)
    return hashlib.sha256(texts).hexdigest()
