"""A run as one HTML file that needs nothing else: no network, no script, no other file."""

from collections.abc import Sequence
from html import escape

from protocol.recipe import Recipe, recipe_hash
from server.record import RunRecord

Overlay = tuple[str, bytes]
"""A caption and a PNG."""


def render(record: RunRecord, recipe: Recipe, overlays: Sequence[Overlay]) -> str:
    """Return the report of a run as HTML text."""
    del overlays
    return f"<!doctype html><title>{escape(record.run)}</title><p>{escape(recipe_hash(recipe))}"
