"""Readers of data folders, by the name a recipe gives them: `data: {name: slices, size: 64}`.

A reader takes one site's part of a folder, or the whole folder as one site where `site` is
None: a hospital's own folder. Its messages say which site, what and how many, never whose.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imaging.cohort import OWN, Cohort, checked, renamed, with_pretexts
from imaging.sources import ingested, nifti, slices, table
from protocol.errors import DataError
from protocol.recipe import Recipe, build, check_part

SOURCES: dict[str, Callable[..., Cohort]] = {
    "slices": slices.read,
    "nifti": nifti.read,
    "ingested": ingested.read,
    "heart4": table.read_heart4,
    "tcga_brca": table.read_tcga_brca,
}
"""Name -> `read(root, recipe, site, *, options) -> Cohort`."""

MAPPED = {"ingested"}

SITES: dict[str, Callable[[Path, Recipe], list[str]]] = {
    "slices": slices.sites,
    "nifti": nifti.sites,
    "ingested": ingested.sites,
    "heart4": table.sites_heart4,
    "tcga_brca": table.sites_tcga_brca,
}
"""Name -> `sites(root, recipe)`: the names of the sites found in a folder."""


def read_cohort(root: Path, recipe: Recipe, site: str | None, arrays: Path | None = None) -> Cohort:
    """Read what the recipe needs of `site`; `DataError` where the files do not give it.

    `arrays`: a folder where a reader that maps arrays (`MAPPED`) keeps them; None: all is read into memory.
    """
    if not root.is_dir():
        raise DataError("the site's data is not a folder: give the folder of the data (`data` in site.yaml)")
    labels = {name: head for name, head in recipe.heads.items() if head.kind != "pretext"}
    given: dict[str, Any] = {"root": root, "recipe": replace(recipe, heads=labels), "site": site}
    given |= {"arrays": arrays} if recipe.data.name in MAPPED else {}
    cohort: Cohort = build(SOURCES, recipe.data, "data", **given)
    return checked(with_pretexts(renamed(cohort, site or OWN), recipe), recipe)


def list_sites(root: Path, recipe: Recipe) -> list[str]:
    """Return the sites that a simulation finds in `root`, sorted."""
    check_part(SOURCES, recipe.data, "data")
    if not root.is_dir():
        msg = f"{root} is not a folder: give the folder of the data"
        raise DataError(msg)
    found = sorted(SITES[recipe.data.name](root, recipe))
    if not found:
        msg = f"{root} holds no site's data as '{recipe.data.name}' reads them: see imaging/sources"
        raise DataError(msg)
    return found
