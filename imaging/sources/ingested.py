"""A cohort that `consilium site ingest` has made: NIfTI folders with a manifest.

The layout and the options are those of `imaging.sources.nifti`. Before anything is read, every file is held
against the manifest's hash: a cohort that was half copied, or edited by hand, is refused. A patient's name
is a keyed stand-in, so that the split, which follows from names, says nothing of who they are.
"""

from pathlib import Path

from imaging.cohort import Cohort
from imaging.ingest.manifest import verify
from imaging.sources import nifti
from protocol.recipe import Count, Natural, Positive, Recipe


def sites(root: Path, recipe: Recipe) -> list[str]:
    """Return the cohorts in `root`, one a site."""
    return nifti.sites(root, recipe)


def read(
    root: Path,
    recipe: Recipe,
    site: str | None,
    *,
    size: tuple[Count, ...],
    spacing_mm: tuple[Positive, Positive, Positive] | None = None,
    slices: Count | None = None,
    split_seed: Natural = 0,
) -> Cohort:
    """Read one site, see `imaging.sources.nifti.read`; `DataError` where its files are not as was written."""
    verify(root if site is None else root / site)
    return nifti.read(
        root, recipe, site, size=size, spacing_mm=spacing_mm, slices=slices, split_seed=split_seed
    )
