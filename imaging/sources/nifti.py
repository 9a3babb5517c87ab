"""stub"""
from pathlib import Path
from protocol.recipe import Recipe
from imaging.cohort import Cohort
def sites(root: Path, recipe: Recipe) -> list[str]:
    return []
def read(root: Path, recipe: Recipe, site: str | None) -> Cohort:
    raise NotImplementedError
