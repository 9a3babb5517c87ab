"""Pictures of what the model found, for data that may be shown: phantom and public."""

from pathlib import Path

from protocol.recipe import Recipe
from server.report import Overlay


def overlays(folder: Path, recipe: Recipe) -> list[Overlay]:
    """Return (caption, PNG) of a few held-out cases a site."""
    del folder, recipe
    return []
